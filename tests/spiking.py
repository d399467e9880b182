"""Runs whose loss is not a number in some steps."""

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.config import Recipe
from sfumato.train.denoising import Prepare, Prepared, denoising
from sfumato.train.loop import train
from sfumato.train.step import Step


def prepared(bad: Collection[int], runs: list[Prepared] | None = None, act: Callable | None = None) -> Prepare:
    """Documents, with a loss that is not finite in some steps, counted from 1; `act(run)` is called after each."""

    def prepare(*found: Any) -> Prepared:
        run = denoising(*found)
        assert isinstance(run.step, Step)
        update, make = run.step.update, run.step

        def judged(loss: Tensor, *others: Any) -> dict[str, Any]:
            return update(loss * math.nan if run.state.step + 1 in bad else loss, *others)

        def step() -> dict[str, Any]:
            record = make()
            if act:
                act(run)
            return record

        make.update = judged  # pyrefly: ignore[bad-assignment]
        if runs is not None:
            runs.append(run)
        return replace(run, step=step)

    return prepare


def spiked(bad: Collection[int], *runs: tuple[Recipe, Path]) -> list[str]:
    """Train recipes, each into its folder, with a loss that is not finite in some steps; what was said."""
    said: list[str] = []
    for recipe, out in runs:
        train(recipe, out, prepare=prepared(bad), say=said.append)
    return said
