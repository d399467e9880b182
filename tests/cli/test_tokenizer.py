import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.text.tokenizer import Tokenizer

Captured = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The cat sat on the mat. Die größte Katze schläft. " * 20, encoding="utf-8")
    return path


def test_a_tokenizer_is_written_and_works(text: Path, tmp_path: Path, capsys: Captured):
    out = tmp_path / "new" / "tokenizer.json"
    assert main(["tokenizer", "train", str(text), "--out", str(out), "--vocab-size", "280"]) == 0
    tokenizer = Tokenizer.load(out)
    assert tokenizer.vocab_size == 280
    assert tokenizer.decode(tokenizer.encode("größer 🙂")) == "größer 🙂"
    line = capsys.readouterr().out
    assert line.startswith(f"{out}: 280 tokens, ") and line.endswith("bytes a token, from 1 documents\n")


def test_json_is_all_that_standard_output_holds(text: Path, tmp_path: Path, capsys: Captured):
    words = ["tokenizer", "train", str(text), "--out", str(tmp_path), "--vocab-size", "5000", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    tokenizer = Tokenizer.load(tmp_path)
    assert found["out"] == str(tmp_path / "tokenizer.json") and found["sha256"] == tokenizer.fingerprint
    assert found["tokens"] == tokenizer.vocab_size < 5000
    content = text.read_text(encoding="utf-8")
    size = len(content.encode()) / len(tokenizer.encode(content))
    assert found["bytes_per_token"] == round(size, 3) and found["characters"] == len(content)
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_many_files_and_broken_lines(text: Path, tmp_path: Path, refused: Refused, capsys: Captured):
    (tmp_path / "more.jsonl").write_text('{"story": "one dog"}\n{"story": 3}\n{"story": "two dogs"}\n')
    words = ["tokenizer", "train", tmp_path / "more.jsonl", "--field", "story", "--out", tmp_path / "t.json"]
    assert refused(*words).startswith(f"{tmp_path}/more.jsonl:2: ")
    assert not (tmp_path / "t.json").exists()
    assert main([*map(str, words), str(text), "--on-error", "skip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tokenizer", "trian"], "unknown command trian; did you mean sfumato tokenizer train?"),
        (["tokenizer", "train"], "missing FILES; see sfumato tokenizer train --help"),
        (["tokenizer", "train", "nowhere"], "nowhere: no such file or folder"),
        (["tokenizer", "train", "x", "--vocab-size", "100"], "--vocab-size: expected at least 263, got '100'"),
    ],
)
def test_a_mistake_is_one_line(refused: Refused, words: list[str], expected: str):
    assert expected in refused(*words)


def test_empty_text_is_one_line(tmp_path: Path, refused: Refused):
    (tmp_path / "empty.txt").write_text("\n")
    line = refused("tokenizer", "train", tmp_path / "empty.txt", "--out", tmp_path / "t.json")
    assert line == f"{tmp_path}/empty.txt: no text in it; give files that hold some"
    assert not (tmp_path / "t.json").exists()
