"""The recipes that come along run as they are written, only shorter."""

from pathlib import Path

import pytest

from sfumato.config import load_recipe
from sfumato.model.bundle import read_description
from sfumato.tune.methods import tune

RECIPES = Path(__file__).parents[2] / "recipes"
SHORTER = {"train.steps": "2", "train.tokens": "0", "train.batch": "2", "model.context": "48", "train.device": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout", "shift"), [("few-steps", "block", 0), ("adapt", "full", 1)])
def test_a_recipe_runs(name: str, layout: str, shift: int, tmp_path: Path):
    recipe = load_recipe(RECIPES / f"{name}.toml", {**SHORTER, "data.cache": str(tmp_path / "cache")})
    folder, _ = tune(recipe, tmp_path / "run")
    assert folder is not None
    config = read_description(folder)[0]
    assert (config.process.kind, config.layout, config.shift) == ("masked", layout, shift)
