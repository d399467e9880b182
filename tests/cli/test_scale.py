"""`sfumato scale` on a ladder of a few seconds: plan, train, share, report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main

Refused = Callable[..., str]
Captured = pytest.CaptureFixture[str]
SMALL = ["--kinds", "masked", "--budgets", "8e8,12e8", "--sizes", "2", "--ratios", "0.2,3", "--seed", "5"]
SHORT = ["--model.width", "16", "--model.mlp_width", "24", "--train.batch", "4", "--train.checkpoint_every", "99"]


@pytest.fixture
def scale(recipe: Path, tmp_path: Path, capsys: Captured) -> Callable[..., dict]:
    def run(*words: str) -> dict:
        capsys.readouterr()
        assert main(["scale", str(recipe), "--out", str(tmp_path / "s"), *SMALL, *SHORT, "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_ladder_is_planned_trained_in_parts_and_reported(scale, tmp_path: Path):
    plan = scale("--dry-run")
    assert not (tmp_path / "s").exists()
    names = {rung["name"] for rung in plan["rungs"]}
    assert len(names) == 4 and plan["seconds_left"] == pytest.approx(sum(r["seconds"] for r in plan["rungs"]))
    assert all(rung["flops"] == pytest.approx(rung["budget"], rel=0.02) for rung in plan["rungs"])

    half = scale("--part", "1/2")
    done = {path.parent.name for path in (tmp_path / "s" / "trials").glob("*/trial.json")}
    assert len(half["rungs"]) == len(done) == 2
    assert {rung["name"] for rung in scale("--dry-run")["rungs"] if rung["done"]} == done

    whole = scale()
    assert len(whole["rungs"]) == 4 and whole["rungs"][0] in half["rungs"]  # what was done is kept
    assert whole["about"]["settings"]["budgets"] == [8e8, 12e8]
    for rung in whole["rungs"]:
        assert (rung["kind"], rung["likelihood"]) == ("masked", "bound")
        assert 0 < rung["stderr"] < rung["nats_per_token"]
    assert "too few rungs for a law" in whole["kinds"]["masked"]["why"]

    files = {path.name for path in (tmp_path / "s").iterdir() if not path.name.startswith(".")}
    pictures = {f"{name}.svg" for name in ("isoflop", "compute", "parameters")}
    assert files == {"tokenizer.json", "trials", "scale.json", "report.md", *pictures}
    assert json.loads((tmp_path / "s" / "scale.json").read_text()) == whole
    assert "4 of 4 trainings" in (tmp_path / "s" / "report.md").read_text()


def test_a_person_reads_a_table(recipe: Path, capsys: Captured):
    assert main(["scale", str(recipe), *SMALL, *SHORT, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["training", "parameters"] and lines[-1].startswith("4 trainings, ")


def test_mistakes_are_one_line(recipe: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    common = ["scale", recipe, "--out", tmp_path / "s"]
    assert "--part: expected NUMBER/PARTS such as 2/8, got '3/2'" in refused(*common, "--part", "3/2")
    assert "--ratios: expected two numbers" in refused(*common, "--ratios", "5", "--dry-run")
    assert "expected masked, block or ar, got 'gpt'" in refused(*common, "--kinds", "gpt")
    assert "at least 30; take larger --budgets" in refused(*common, "--budgets", "1e6", "--dry-run")
    assert "no study is there" in refused(*common, *SMALL, *SHORT, "--report")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without torchrun" in refused(*common)
