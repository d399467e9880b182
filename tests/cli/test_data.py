"""`sfumato data`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main

GOOD = "A little boy is playing with his friends in the park."
GERMAN = "Ein kleiner Junge spielt mit seinen Freunden im Park, sagt Jürgen."
LINES = [
    {"text": GOOD},
    {"text": f"  {GOOD}\n"},
    {"text": GERMAN.encode().decode("latin-1")},
    {"text": "Write to ann@example.org if the dog comes home again."},
    {"text": "ha " * 200},
    {
        "messages": [
            {"role": "user", "content": "Who ran over the field?"},
            {"role": "assistant", "content": "The dog."},
        ]
    },
    {"nothing": 1},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "raw.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), "utf-8")
    return path


def test_check_reports_and_writes_nothing(capsys: pytest.CaptureFixture[str], source: Path):
    assert main(["data", "check", str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["kept"], report["broken"]) == (6, 4, 1)
    assert report["changed"] == {"repaired": 1, "redacted": 1}
    assert report["dropped"] == {"duplicate": 1, "repetition": 1}
    assert report["languages"] == {"en": 3, "de": 1}
    assert sorted(path.name for path in source.parent.iterdir()) == ["raw.jsonl"]
    assert main(["data", "check", str(source)]) == 0
    said = capsys.readouterr().out
    assert "4 of 6 documents stay" in said and "1 lines cannot be read" in said and "languages: en 3, de 1" in said


def test_clean_writes_what_stays_with_language_and_licence(
    capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path
):
    out, words = tmp_path / "new" / "clean.jsonl", ["data", "clean", str(source), "--licence", "CC0", "--out"]
    assert main([*words, str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [line["language"] for line in lines] == ["en", "de", "en", "en"]
    assert {line["licence"] for line in lines} == {"CC0"}
    assert lines[1]["text"] == GERMAN and "ann@example.org" in lines[2]["text"] and "messages" in lines[3]
    again = tmp_path / "again.jsonl"
    assert main([*words, str(again), "--redact", "--language", "en", "--against", str(out)]) == 0
    assert [json.loads(line)["text"] for line in again.read_text("utf-8").splitlines()] == [
        "Write to [email] if the dog comes home again."
    ]


def test_spellings_are_told_and_changed(tmp_path: Path):
    source = tmp_path / "raw.jsonl"
    source.write_text(
        "".join(json.dumps({"text": f"The {word} is here."}) + "\n" for word in ("colour", "gray", "dog"))
    )
    found = {}
    for spelling in ("tag", "british", "american", "both"):
        out = tmp_path / f"{spelling}.jsonl"
        assert main(["data", "clean", str(source), "--near", "0", "--spelling", spelling, "--out", str(out)]) == 0
        lines = map(json.loads, out.read_text("utf-8").splitlines())
        found[spelling] = [(line["text"].split()[1], line["spelling"]) for line in lines]
    british, american = ("colour", "british"), ("color", "american")
    assert found["tag"] == [british, ("gray", "american"), ("dog", "")]
    assert found["british"] == [british, ("grey", "british"), ("dog", "british")]
    assert found["american"] == [american, ("gray", "american"), ("dog", "american")]
    assert found["both"] == [british, american, ("grey", "british"), ("gray", "american"), ("dog", "")]


def test_the_same_texts_give_the_same_file(source: Path, tmp_path: Path):
    for name in ("a", "b"):
        assert main(["data", "clean", str(source), str(source), "--out", str(tmp_path / f"{name}.jsonl")]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_mistake_leaves_no_file(refused: Callable[..., str], source: Path, tmp_path: Path):
    out = tmp_path / "clean.jsonl"
    assert "ends in .jsonl" in refused("data", "clean", source)
    assert "unknown code 'xx'" in refused("data", "clean", source, "--language", "xx", "--out", out)
    assert "no such file" in refused("data", "clean", tmp_path / "none", "--out", out)
    assert "between 0 and 1" in refused("data", "check", source, "--near", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.jsonl"]


def test_what_is_read_is_never_replaced(refused: Callable[..., str], source: Path, tmp_path: Path):
    before = source.read_bytes()
    for words in ([source], [tmp_path], [tmp_path / "other.txt", "--against", source]):
        assert "would replace what is read" in refused("data", "clean", *words, "--out", source)
    assert source.read_bytes() == before
