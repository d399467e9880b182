"""`sfumato likelihood`: records with likelihoods, a mean with its error, and one line for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfumato.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "Once upon a time", "id": 1}\n{"prompt": "It", "response": " had a ball"}\n{"id": 3}\n')
    return path


@pytest.fixture
def call(masked_bundle: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    def called(*words: str, output: str = "out.jsonl") -> tuple[int, str, str]:
        where = ["--device", "cpu", "--input", str(source), "--output", str(tmp_path / output)]
        code = main(["likelihood", str(masked_bundle), *where, *words])
        return code, *capsys.readouterr()

    return called


def test_each_record_gains_its_likelihood_and_the_mean_is_printed(call, tmp_path: Path):
    code, out, err = call("--on-error", "skip", "--samples", "4")
    assert code == 0 and out.startswith(f"{tmp_path}/out.jsonl: 3 records, 1 without a likelihood\nbits per byte")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0]["id"] == 1 and lines[0]["likelihood"]["bytes"] == 16 and "error" in lines[2]["likelihood"]
    found = json.loads(call("--on-error", "skip", "--samples", "4", "--json")[1])
    assert (found["records"], found["resumed"], found["errors"], found["bytes"]) == (3, 3, 1, 16 + 11)
    nats = sum(line["likelihood"].get("nats", 0) for line in lines)
    assert found["nats_per_token"]["value"] == pytest.approx(nats / found["tokens"])
    assert found["nats_per_token"]["low"] < found["nats_per_token"]["value"] < found["nats_per_token"]["high"]


def test_a_folder_of_shards_holds_the_same(call, tmp_path: Path):
    assert call("--on-error", "skip")[0] == call("--on-error", "skip", "--shard-rows", "2", output="shards")[0] == 0
    parts = sorted((tmp_path / "shards").glob("part-*.jsonl"))
    assert [part.read_bytes().count(b"\n") for part in parts] == [2, 1]
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "out.jsonl").read_bytes()


def test_all_shards_are_measured_in_one_precision(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fast = iter((torch.bfloat16, torch.float32, torch.float32))
    monkeypatch.setattr("sfumato.model.device.resolve_dtype", lambda name, device: next(fast))  # on a busy machine
    words = ("--on-error", "skip", "--shard-rows", "1")
    assert call(*words, output="shards")[0] == 0
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["dtype"] == "bfloat16"
    first = (tmp_path / "shards" / "part-00000.jsonl").read_bytes()
    (tmp_path / "shards" / "part-00000.jsonl").unlink()
    assert call(*words, output="shards")[0] == 0
    assert (tmp_path / "shards" / "part-00000.jsonl").read_bytes() == first


def test_templates_say_what_is_measured(call, source: Path, tmp_path: Path):
    source.write_text('{"q": "Once", "a": " upon"}\n')
    assert call("--prompt", "{q}", "--response", "{a}")[0] == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["likelihood"]["bytes"] == 5
    found = json.loads(call("--prompt", "{q}", "--response", "{a}", "--json")[1])
    assert found["nats_per_token"]["stderr"] is None  # of one text


def test_where_no_record_has_a_likelihood_there_is_no_mean(
    refused: Callable[..., str], masked_bundle: Path, source: Path, tmp_path: Path
):
    source.write_text('{"id": 3}\n')
    words = ["--device", "cpu", "--input", source, "--output", tmp_path / "out.jsonl", "--on-error", "skip"]
    assert "none of 1 records has a likelihood" in refused("likelihood", masked_bundle, *words)
    assert "error" in json.loads((tmp_path / "out.jsonl").read_text())["likelihood"]


def test_a_mistake_is_one_line(refused: Callable[..., str], masked_bundle: Path, source: Path, tmp_path: Path):
    words, out = ["likelihood", masked_bundle, "--device", "cpu"], ["--output", tmp_path / "out.jsonl"]
    assert refused(*words, *out).startswith("missing --input FILE")
    assert refused(*words, "--input", source).startswith("missing --output FILE")
    assert refused(*words, "--input", source, *out, "--ray-address", "auto").startswith("--ray-address: goes with")
    assert refused(*words, "--input", source, *out) == f"{source}:3: no field 'text'; it has id"
    again = refused(*words, "--input", source, *out, "--seed", "1")
    assert again.startswith(f"{tmp_path}/out.jsonl.parts: not what this run would write")
