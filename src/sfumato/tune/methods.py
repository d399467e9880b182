"""The ways to tune a model; each is a file of this room with a `prepare`."""

import dataclasses
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, ModelConfig, ProcessConfig, Recipe
from sfumato.model.bundle import find_bundle, read_description
from sfumato.train.loop import train

TOGETHER = ("answers", "text")
"""Methods whose losses several processes can share."""
_DEFAULT = ModelConfig()
_ROWS = ("context", "block", "smallest_block")  # of a model's settings, those that may differ from `init`


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
    if recipe.method not in TOGETHER and (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(
            f"method {recipe.method}: it trains in one process, got {count}; start it without torchrun "
            f"({' and '.join(TOGETHER)} train in several)"
        )
    prepare = import_module(f"sfumato.tune.{recipe.method}").prepare
    return train(completed(recipe), out, prepare=prepare, **watch)


def completed(recipe: Recipe) -> Recipe:
    """A recipe whose network is that of `init`, where it says nothing of its own.

    `process` is that of `init` too, unless the method is to change it (adapt).

    Raises:
        ValueError: no model to start from.
    """
    if not recipe.init:
        raise ConfigError("init: expected the model to tune, a bundle's folder or name; add --init tiny")
    start = read_description(find_bundle(recipe.init))[0]
    changed: dict[str, Any] = {}
    rows = {name: getattr(recipe.model, name) for name in _ROWS}
    if dataclasses.replace(recipe.model, **{name: getattr(_DEFAULT, name) for name in _ROWS}) == _DEFAULT:
        # What rows look like says nothing of the network. A public model's context is longer than one trains with.
        kept = rows if recipe.model != _DEFAULT or "model_type" in start.made else {}
        if kept:
            kept["context"] = min(kept["context"], start.model.context)
        changed["model"] = dataclasses.replace(start.model, vocab_size=0, gap_head=False, **kept)
    if recipe.process == ProcessConfig() and recipe.method != "adapt":
        # A public masked model has learned low noise alone; only to go on with texts is to go on with that.
        low = recipe.method == "text" or "model_type" not in start.made
        changed["process"] = start.process if low else dataclasses.replace(start.process, levels=(0.0, 1.0))
    return dataclasses.replace(recipe, **changed)
