"""`sfumato score`: what it prints, keeps and refuses."""

import json
import sys
from pathlib import Path

import pytest

from sfumato.cli import main

GAPS = """
name = "gaps"

[score]
path = "held.jsonl"
prompt = "{text}"
references = "{gap}"
metrics = ["exact"]
hole = "___"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    held = [{"text": "Tom had a red ___. He kicked the ball to his dog.", "gap": "ball"}] * 2
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(record) + "\n" for record in held))
    path = tmp_path / "gaps.toml"
    path.write_text(GAPS)
    return path


def test_figures_have_an_error_and_a_cost(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kept = tmp_path / "out" / "answers.jsonl"
    assert main(["score", str(recipe), "--model", "tiny", "--show", "1", "--out", str(kept), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["asked  Tom had a red ___. He kicked the ball to his dog.", "right  ball", "said   ball"]
    assert lines[4] == "exact      100.00 +- 0.00 (standard error)"
    assert lines[5].startswith("2 questions; 1.0 forward passes an answer, 1.00 tokens a pass")
    records = [json.loads(line) for line in kept.read_text().splitlines()]
    assert records == [{"prompt": lines[0][7:], "references": ["ball"], "answer": "ball"}] * 2


def test_a_choice_is_made_by_likelihood(recipe: Path, capsys: pytest.CaptureFixture[str]):
    recipe.write_text(GAPS.replace('metrics = ["exact"]\nhole = "___"', 'choices = ["ball", "of"]'))
    held = {"text": "Tell me a story about a ball.", "gap": "ball"}
    (recipe.parent / "held.jsonl").write_text(json.dumps(held) + "\n")
    assert main(["score", str(recipe), "--model", "tiny-chat", "--json", "--samples", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["accuracy"]["value"] in (0, 100) and found["questions"] == 1


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (('path = "held.jsonl"', ""), [], "no score.path; say in [score] what to score on, or give --data FILE"),
        (('"exact"', '"rogue"'), [], "score.metrics[0]: expected bleu"),
        (("{gap}", "{hole}"), [], "held.jsonl:1: no field 'hole'; it has text, gap"),
        (("", ""), ["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file or folder"),
        (("", ""), [], "no such model"),
        (("", ""), ["--model", "tiny", "--modle", "x"], "unknown flag --modle; did you mean --model?"),
    ],
)
def test_mistakes_are_one_line(
    recipe: Path, change: tuple[str, str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    recipe.write_text(GAPS.replace(*change))
    assert main(["score", str(recipe), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("metric", "package"),
    [
        ("bleu", "sacrebleu"),
        ("chrf", "sacrebleu"),
        ("sari", "sacrebleu"),
        ("rouge", "rouge_score"),
        ("coverage", "nltk"),
    ],
)
def test_a_missing_package_is_told_before_anything_is_written(
    metric: str, package: str, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    recipe.write_text(GAPS.replace("exact", metric))
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["score", str(recipe), "--model", "nowhere"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"{metric} needs {package}, not installed here: pip install" in told
