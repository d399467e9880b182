"""The ways to tune a model; each is a file of this room with a `prepare`."""

from importlib import import_module
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, Recipe
from sfumato.train.loop import train


def tune(recipe: Recipe, out: Path, **watch: Any) -> tuple[Path | None, int]:
    """Tune the model that the recipe names as `init`, by `recipe.method`, or continue a run that was stopped.

    Args:
        recipe: what to start from, what to learn, and from what.
        out: the run's folder.
        watch: who is told of what; arguments of `train`.

    Returns:
        As `train`: the bundle's folder, and the number of the signal that stopped the run or 0.

    Raises:
        ValueError: no model to start from, and whatever the method or `train` refuses.
    """
    if not recipe.init:
        raise ConfigError("init: expected the model to tune, a bundle's folder or name; add --init tiny")
    return train(recipe, out, prepare=import_module(f"sfumato.tune.{recipe.method}").prepare, **watch)
