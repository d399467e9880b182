"""`sfumato embed`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main

TEXTS = ["Once upon a time", "a red ball", "The end. It had a mouse."]


def told(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict]:
    capsys.readouterr()
    assert main(["embed", *map(str, words), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    who = ("mouse", "ball", "time", "brace")
    lines = [
        {"title": f"{who[n % 4]} {n}", "text": f"It had a {who[n % 4]} {n}.", "label": str(n % 2)} for n in range(40)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_texts_and_files_give_the_same_vectors(capsys, masked_bundle: Path, tmp_path: Path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    given = told(capsys, *TEXTS, "--model", masked_bundle)
    read = told(capsys, file, "--model", masked_bundle)
    assert [one["text"] for one in given] == TEXTS
    assert given == read
    assert all(sum(x * x for x in one["embedding"]) == pytest.approx(1) for one in given)


def test_vectors_are_written_to_a_file(capsys, masked_bundle: Path, tmp_path: Path):
    printed = np.array([one["embedding"] for one in told(capsys, *TEXTS, "--model", masked_bundle, "--dimensions", 5)])
    matrix, lines = tmp_path / "new" / "x.npy", tmp_path / "x.jsonl"
    for path in (matrix, lines):
        assert main(["embed", *TEXTS, "--model", str(masked_bundle), "--dimensions", "5", "--out", str(path)]) == 0
    assert np.load(matrix) == pytest.approx(printed) and np.load(matrix).dtype == np.float32
    saved = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert np.array([one["embedding"] for one in saved]) == pytest.approx(printed)


def test_a_few_texts_are_shown_with_their_likeness(capsys, masked_bundle: Path):
    assert main(["embed", *TEXTS, "--model", str(masked_bundle)]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert "3 texts, 32 dimensions" in first
    assert [row.split()[i] for i, row in enumerate(rows)] == ["1.000"] * 3


def test_probe_and_retrieval_compare_with_the_twin_and_a_bag_of_words(
    capsys, masked_bundle: Path, autoregressive_bundle: Path, pairs: Path
):
    models = ("--model", masked_bundle, "--twin", autoregressive_bundle)
    (probe,) = told(capsys, "--probe", pairs, *models)
    assert [one["vectors"] for one in probe["results"]] == ["mean", "bag of words", "mean", "last", "bag of words"]
    assert [one["process"] for one in probe["results"]] == ["masked"] * 2 + ["autoregressive"] * 3
    assert probe["results"][0]["labels"] == ["0", "1"] and probe["results"][1]["accuracy"] > 0.5
    (found,) = told(capsys, "--retrieve", pairs, *models)
    assert found["results"][1]["documents"] == 40 and found["results"][1]["reciprocal_rank"] > 0.2
    assert main(["embed", "--retrieve", str(pairs), "--model", str(masked_bundle), "--count", "9"]) == 0
    assert "MRR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give texts"),
        (["a", "--probe", "b"], "give texts"),
        (["a", "--out", "x.csv"], "ends in .npy or .jsonl"),
        (["a", "--layer", "7"], "layer: expected 0 to 1"),
        (["--probe", "nowhere.jsonl"], "no such file"),
    ],
)
def test_mistakes_are_one_line(refused: Callable[..., str], masked_bundle: Path, words: list[str], message: str):
    assert message in refused("embed", *words, "--model", masked_bundle)
