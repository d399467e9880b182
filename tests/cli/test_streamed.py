"""Training on text that is not on this machine, tokenised beforehand or streamed, from the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli import main

fsspec = pytest.importorskip("fsspec")
Captured = pytest.CaptureFixture[str]
STREAMED = ["--data.stream", "true", "--data.lanes", "2"]


@pytest.fixture
def bucket(recipe: Path) -> Iterator[str]:
    """The recipe's text, in two files in memory."""
    system = fsspec.filesystem("memory")
    lines = (recipe.parent / "stories.jsonl").read_bytes().splitlines(keepends=True)
    system.pipe({f"/bucket/stories/{n}.jsonl": b"".join(lines[n::2]) for n in range(2)})
    yield "memory://bucket/stories"
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_streamed_run_trains_its_tokenizer_evaluates_and_writes_its_card(
    recipe: Path, bucket: str, tmp_path: Path, capsys: Captured
):
    words = ["train", str(recipe), "--data.sources", bucket, *STREAMED]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "text as it is streamed" in capsys.readouterr().err
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| stories | streamed | " in card and "bits/byte" in card
    assert 1 < records(tmp_path / "run")[-1]["held_out_bits_per_byte"] < 20


def test_text_behind_a_url_can_be_tokenised_beforehand_too(recipe: Path, bucket: str, tmp_path: Path):
    assert main(["train", str(recipe), "--data.sources", bucket, "--out", str(tmp_path / "run")]) == 0
    assert "| stories | " in (tmp_path / "run" / "model" / "README.md").read_text()


def test_what_is_not_there_is_one_line(recipe: Path, tmp_path: Path, capsys: Captured):
    words = ["train", str(recipe), "--data.sources", "memory://nowhere/x.jsonl", *STREAMED]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "memory://nowhere/x.jsonl: no such file, folder or bucket" in error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the client's own, when it is left behind
def test_a_run_streams_from_an_object_store(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("flask", reason="the S3 server of moto needs flask and flask-cors")
    pytest.importorskip("flask_cors", reason="the S3 server of moto needs flask and flask-cors")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        system = s3fs.S3FileSystem()
        system.mkdir("texts")
        lines = (recipe.parent / "stories.jsonl").read_bytes().splitlines(keepends=True)
        system.pipe({f"texts/stories/{n}.jsonl": b"".join(lines[n::2]) for n in range(2)})
        words = ["train", str(recipe), *STREAMED, "--data.sources"]
        assert main([*words, "s3://texts/stories", "--out", str(tmp_path / "run")]) == 0
        (tmp_path / "stories").mkdir()
        system.get("texts/stories/", str(tmp_path / "stories"), recursive=True)
        assert main([*words, str(tmp_path / "stories"), "--out", str(tmp_path / "local")]) == 0
        losses = [[record["loss"] for record in records(tmp_path / name)] for name in ("run", "local")]
        assert losses[0] == losses[1]
        assert main([*words, "s3://none/stories", "--out", str(tmp_path / "none")]) == 2
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
