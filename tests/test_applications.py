"""Every application's recipe runs: a model is tuned by it, for a few steps, and scored."""

import json
import shutil
from pathlib import Path

import pytest
from applications import write

from sfumato.cli import main
from sfumato.config import Recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
APPS = sorted(path.stem for path in (RECIPES / "apps").glob("*.toml"))
FEW = ["--train.steps", "2", "--train.batch", "2", "--train.threads", "1", "--train.dtype", "float32"]
FEW += ["--data.held_out", "0", "--train.patience", "0"]


def at_home(path: Path, folder: Path) -> tuple[Path, Recipe]:
    """A copy of a recipe, with small files where it looks for data."""
    copy = folder / "apps" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    missing = load_recipe(copy)  # what is not found stays as it is written
    for wanted in (*(source.path for source in missing.data.sources), missing.score.path):
        if wanted and not (RECIPES / "apps" / wanted).is_file():
            write(copy.parent / wanted)
        elif wanted:
            (copy.parent / wanted).parent.mkdir(exist_ok=True)
            shutil.copy(RECIPES / "apps" / wanted, copy.parent / wanted)
    return copy, load_recipe(copy)


@pytest.mark.parametrize("name", APPS)
def test_an_application_is_tuned_and_scored(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, recipe = at_home(RECIPES / "apps" / f"{name}.toml", tmp_path)
    command, run = "tune" if recipe.init else "train", tmp_path / "run"
    words = [str(path), "--out", str(run), "--data.cache", str(tmp_path / "cache"), *FEW]
    words += ["--tokenizer.vocab_size", "300"] if command == "train" else []
    assert main([command, *words]) == 0
    capsys.readouterr()
    score = ["score", str(path), "--model", str(run / "model"), "--n", "3", "--samples", "4", "--json"]
    assert main(score) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 3 and found["figures"]
    for figure in found["figures"].values():
        assert 0 <= figure["value"] <= 100 and figure["stderr"] >= 0
    names = {"rouge": "rouge1", "variety": "distinct2"}
    expected = [names.get(metric, metric) for metric in recipe.score.metrics] or ["accuracy"]
    assert set(expected) <= found["figures"].keys()


def test_every_source_says_its_licence():
    for path in (*(RECIPES / "apps").glob("*.toml"), RECIPES / "tiny-tasks.toml"):
        assert all(source.licence for source in load_recipe(path).data.sources), path.name
