"""Runs that take a fraction of a second: one thin layer, rows of 32 tokens, a few lines of text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import DataConfig, ModelConfig, ProcessConfig, Recipe, Source, TokenizerConfig, TrainConfig
from sfumato.train.loop import train

MODEL = ModelConfig(width=32, layers=1, heads=2, mlp_width=48, context=32)
TRAIN = TrainConfig(steps=4, batch=4, warmup=2, ema=0.9, checkpoint_every=1, dtype="float32", device="cpu", threads=1)


@pytest.fixture
def small_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """`small_recipe(init="", model={...}, process={...}, train={...}, distill=..., ...)`."""
    text = tmp_path / "plain.txt"
    text.write_text("red blue green black a b c d e f g 0 1 2 3 4 5 6 7 8 9\n" * 20)

    def make(
        model: dict | None = None, process: dict | None = None, train: dict | None = None, **others: Any
    ) -> Recipe:
        return Recipe(
            name="small",
            model=replace(MODEL, **model or {}),
            process=ProcessConfig(**process or {}),
            tokenizer=TokenizerConfig(vocab_size=263),
            data=DataConfig((Source(str(text)),), held_out=0.1, cache=str(tmp_path / "cache")),
            train=replace(TRAIN, **train or {}),
            **others,
        )

    return make


@pytest.fixture
def base(small_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., str]:
    """`base(model={...}, process={...})`: a bundle that was trained for a few steps."""

    def make(**sections: Any) -> str:
        folder, _ = train(small_recipe(**sections), tmp_path / "base")
        return str(folder)

    return make


class Stop(Exception):
    """Kills a run in the middle."""


class StopAfter:
    """A watcher that kills the run after a step."""

    def __init__(self, step: int):
        self.step = step

    def started(self, *args: Any) -> None:
        pass

    def stepped(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step:
            raise Stop


@pytest.fixture
def killed_anywhere(tmp_path: Path) -> Callable[[Recipe], None]:
    """`killed_anywhere(recipe)`: a run killed after every step, and one left alone, are bit-equal."""
    from sfumato.tune.methods import tune

    def check(recipe: Recipe) -> None:
        tune(recipe, tmp_path / "whole")
        for step in range(1, recipe.train.steps):
            with pytest.raises(Stop):
                tune(recipe, tmp_path / "parts", watcher=StopAfter(step))
        tune(recipe, tmp_path / "parts")
        for file in (f"checkpoints/step-{recipe.train.steps:08d}/tensors.safetensors", "model/model.safetensors"):
            assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()

    return check
