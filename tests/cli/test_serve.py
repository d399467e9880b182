"""What `sfumato serve` says before it serves; the server itself is tested in tests/serve."""

import importlib.util
import socket
import sys
from pathlib import Path

import pytest

from sfumato.cli import main


def test_without_the_extra_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else found(name, *rest)
    )
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "sfumato: serving needs uvicorn, not installed here: pip install 'sfumato[serve]'\n"
    )


def test_replicas_without_ray_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", "--replicas", "2", "--feedback-url", "none"]) == 2
    assert capsys.readouterr().err == (
        "sfumato: --replicas: needs Ray, which is not installed; pip install 'sfumato[cluster]'\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--model", "nowhere"], "nowhere: no such model"),
        (["--model", "tiny,tiny"], "two models are called 'tiny'"),
        (["--port", "70000"], "--port: expected at most 65535"),
        (["--api-key-file", "nowhere.txt"], "nowhere.txt"),
        (["--feedback-url", "mongodb://x"], "mongodb"),
        (["--worker", "2"], "did you mean --workers?"),
        (["--presets", "p.toml"], "--presets: only has a meaning with --adapt"),
        (["--adapt-file", "c.json"], "--adapt-file: only has a meaning with --adapt"),
        (["--adapt", "--feedback-url", "none"], "--adapt learns from feedback, but --feedback-url is none"),
        (["--adapt", "--presets", "nowhere.toml", "--feedback-url", "f.db"], "nowhere.toml"),
        (["--replicas", "two"], "--replicas: expected a number such as 2, or LEAST:MOST such as 1:8, got 'two'"),
        (["--replicas", "2,other=1"], "--replicas: 'other' is no model here"),
        (["--replicas", "2", "--adapt"], "--adapt: one server learns by itself"),
        (["--replicas", "2", "--ray-address", "host:6379", "--feedback-url", "f.db"], "a file is on one machine"),
        (["--ray-address", "host:6379"], "--ray-address: only has a meaning with --replicas"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(
    words: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *words]) == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1


def test_answers_leave_at_once():
    pytest.importorskip("uvicorn")
    from sfumato.serve.server import listen

    with listen("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP  # by which asyncio knows that it may switch Nagle's algorithm off
