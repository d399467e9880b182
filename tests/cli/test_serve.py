"""What `sfumato serve` says before it serves; the server itself is tested in tests/serve."""

import importlib.util
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
