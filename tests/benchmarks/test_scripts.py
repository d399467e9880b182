"""Every benchmark runs, at a size that shows nothing but that it works."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sfumato

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = "--threads 1 --width 16 --layers 1 --heads 2 --mlp-width 32"


def run(script: str, words: str, json_file: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, FOLDER / script, *f"{SMALL} {words}".split(), "--json", json_file],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(json_file.read_text("utf-8"))
    about = found["machine"]
    assert about["cpu"] and about["cores"] and about["torch"] and about["date"] and about["dtype"] == "float32"
    assert about["command"].startswith(script) and about["sfumato"] == sfumato.__version__
    return found


def positive(spread: dict[str, float]) -> bool:
    return 0 < spread["min"] <= spread["median"] <= spread["max"]


@pytest.mark.slow
def test_training_speed_reports_every_way_to_train_and_a_falling_loss(tmp_path: Path):
    words = "--vocab 263 --context 32 --batch 4 --steps 2 --rounds 2 --warmup 6 --product 64 --dtype float32"
    found = run("train_speed.py", words, tmp_path / "found.json")
    assert [row["name"] for row in found["rows"]] == [
        "masked, eager",
        "masked, eager, full logits",
        "autoregressive, eager",
    ]
    for row in found["rows"]:
        assert positive(row["tokens_per_second"]) and positive(row["ms_per_step"])
        assert positive(row["fraction_of_product"]) and positive(row["ratio"])
        assert 0 < row["optimiser_share"] < 1
        assert row["nats_after"] < row["nats_before"]
    # 1 layer of 16 x 16 and 3 x 16 x 32, gains: 2 x 16, 2 x 8 in the layer and 16 at the end; half the logits
    blocks = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16 + 2 * 8 + 16
    assert found["block_parameters"] == blocks
    assert found["rows"][0]["flop_per_token"] == 6 * blocks + 6 * 263 * 16 * 0.5 + 12 * 32 * 16
    assert found["products"].keys() == {"float32", "bfloat16"} and "FLOP/token" in found["formula"]
    assert positive(found["ceiling_flops"])


@pytest.mark.slow
def test_generation_speed_counts_forwards_and_writes_the_tokens_of_the_public_loop(tmp_path: Path):
    words = "--vocab 64 --prompt 4 --new 12 --steps 4 --rounds 2 --batch 1 3 --dtype float32"
    found = run("generate_speed.py", words, tmp_path / "found.json")
    assert [table["batch"] for table in found["tables"]] == [1, 3]
    for table in found["tables"]:
        assert table["same_tokens"] == 1
        rows = {row["name"]: row for row in table["rows"]}
        for row in rows.values():
            assert positive(row["tokens_per_second"]) and positive(row["ms_per_forward"])
            assert positive(row["ratio_to_first"]) and positive(row["ratio_to_loop"])
            assert 0 <= row["outside"] < 1
        ours = rows["ours, confidence"]
        assert (ours["nfe"], ours["tpf"], ours["positions_per_token"]) == (4, 3.0, round(4 * 16 / 12, 2))
        assert rows["LLaDA's loop, rewritten"]["nfe"] == 4
        assert rows["ours, AR twin, no cache"]["nfe"] == 12
    assert any("--peer" in note for note in found["notes"])


@pytest.mark.slow
def test_optimisers_are_measured_on_held_out_text_at_equal_tokens(tmp_path: Path):
    data = tmp_path / "text.jsonl"
    data.write_text("".join(json.dumps({"text": f"The {i}. cat sat on the mat. " * 4}) + "\n" for i in range(60)))
    words = f"--data {data} --vocab 300 --context 32 --batch 4 --tokens 512 --adamw 1e-3 --muon 1e-2 --beside 2e-3 4e-3"
    found = run("optimisers.py", f"{words} --dtype float32", tmp_path / "found.json")
    tried = [(row["optimiser"], row["matrix_lr"], row["lr"]) for row in found["rows"]]
    assert tried == [("adamw", 1e-3, 1e-3), ("muon", 1e-2, 2e-3), ("muon", 1e-2, 4e-3)]
    for row in found["rows"]:
        assert row["kind"] == "bound" and row["tokens"] == 512 and row["seconds"] > 0
        assert 0 < row["nats_per_token"] < 7 and row["bits_per_byte"] > 0 and row["stderr"] > 0
    assert found["best"].keys() == {"adamw", "muon"}


def test_a_peer_that_is_not_there_is_one_line():
    words = [sys.executable, FOLDER / "train_speed.py", "--peer", "nowhere.py"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("argument --peer: no such file: nowhere.py")
