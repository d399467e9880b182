"""Distillation: a student learns to write in one step what its teacher writes in two, again and again.

In each round the student's step is twice as long as in the one before, and the teacher is the student that the last
round has left (its averaged weights). The last student writes in steps / 2^rounds steps what the first teacher wrote in
`steps`.

Sources: Deschenaux and Gulcehre 2024 (SDTT, 2410.21035); Sahoo et al. 2025 (Duo, 2506.10892, section 4.2).

Shape letters: B rows, L row length, G noise groups of a row.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Where
from sfumato.config import ConfigError, Recipe
from sfumato.data.batches import Batch
from sfumato.data.cache import Progress
from sfumato.model.bundle import BundleConfig, Network, find_bundle, read_description
from sfumato.process import Noised
from sfumato.text.chat import ChatTemplate
from sfumato.text.interface import AnyTokenizer
from sfumato.train.denoising import Prepared, denoising, network
from sfumato.train.state import State
from sfumato.train.step import Step
from sfumato.tune.estimates import View
from sfumato.tune.targets import decoded, divergence, foreseen, said

_WAY = 13  # draw purpose


def prepare(recipe: Recipe, tokenizer: AnyTokenizer, steps: int, reading: Progress | None) -> Prepared:
    """`init` is the first teacher, and the student begins as its copy; one that knows conversations learns from such.

    Raises:
        ValueError: a recipe that does not describe the teacher, or noise that the method is not for; and whatever
            training refuses.
    """
    init = read_description(find_bundle(recipe.init))[0]
    _check(recipe, init)
    if recipe.train.compile:
        raise ConfigError("train.compile: got true, but distillation has no fixed shapes to compile; leave it out")
    chat = None if init.chat is None else ChatTemplate.from_dict(init.chat)
    run = denoising(recipe, tokenizer, steps, reading, chat=chat)
    teacher = network(recipe, run.config).eval()
    run.state.others = {name: p for name, p in teacher.named_parameters() if p.requires_grad}
    teacher.requires_grad_(False)
    return replace(run, step=Distillation(recipe, run.config, run.state, steps, teacher))


def _check(recipe: Recipe, init: BundleConfig) -> None:
    """ConfigError unless the recipe describes the teacher, and noise that the method is for."""
    kinds = ("masked",) if recipe.distill.kind == "sdtt" else ("masked", "uniform", "hybrid")
    if recipe.process.kind not in kinds:
        raise ConfigError(
            f"distill.kind {recipe.distill.kind!r} is for {' or '.join(kinds)} noise, got process.kind "
            f"{recipe.process.kind!r}"
        )
    model, known = recipe.model, init.model
    for name, got, expected in (
        ("process.kind", recipe.process.kind, init.process.kind),
        ("model.layers", model.layers, known.layers),
        ("model.block > 0", model.block > 0, known.block > 0),
    ):
        if got != expected:
            raise ConfigError(f"{name}: got {got}, the teacher {recipe.init} has {expected}; describe it as it is")
    smallest = known.smallest_block or known.block
    if not smallest <= (model.smallest_block or model.block) <= model.block <= known.block:
        raise ConfigError(
            f"model.block: got {model.block}, the teacher {recipe.init} knows {smallest} to {known.block}"
        )


class Distillation(Step):
    """One step of a student that learns from its teacher."""

    def __init__(self, recipe: Recipe, config: BundleConfig, state: State, steps: int, teacher: Network):
        """As in `Step`; the teacher's weights are `state.others`."""
        super().__init__(recipe, config, state, steps)
        self.teacher, self.total = teacher, steps
        self.view = View(self.process, self.layout, self.device, self.dtype)
        self.capacity = None  # student and teacher read different positions
        self.jump = 0.0  # how far the student goes in a step

    def __call__(self) -> dict[str, Any]:
        """One step, in a new round perhaps; the record says which, and how many steps the student learns to take."""
        number = self._round(self.state.step)
        if number > self._round(self.state.step - 1):
            self._promote()
        self.jump = 2 ** (number + 1) / self.recipe.distill.steps
        return super().__call__() | {"round": number + 1, "student_steps": round(1 / self.jump)}

    def _round(self, step: int) -> int:
        return max(0, step) * self.recipe.distill.rounds // self.total

    def _promote(self) -> None:
        """The student becomes the teacher."""
        student = self.state.average or self.state.learned
        with torch.no_grad():
            for name, weight in self.state.others.items():
                weight.copy_(student[name])
        # Longer steps are harder: what would have been a spike before need not be one now.
        self.state.loss_square = 101 * self.state.loss_mean**2

    def _loss(self, batch: Batch, rows_B: Tensor) -> Tensor:
        """Summed divergence of a micro-batch, noised to the levels at which the student's steps begin."""
        t_BG = (self._times(rows_B) / self.jump).ceil().clamp(min=1) * self.jump
        noised, where = self._noised(batch, rows_B, t_BG)
        target_NV = self._target(batch, rows_B, t_BG, noised, where)
        self._seed_dropout(rows_B)
        return divergence(target_NV, said(self.view, self.state.denoiser, noised, where)).sum()

    def _target(self, batch: Batch, rows_B: Tensor, t_BG: Tensor, noised: Noised, where: Where) -> Tensor:
        """What the teacher says, log p (N, V)."""
        temperature = self.recipe.distill.temperature
        if self.recipe.distill.kind == "consistency":
            less, _ = self._noised(batch, rows_B, (t_BG - self.jump).clamp(min=0.0))
            return foreseen(self.view, self.teacher, noised, less, where, temperature)
        levels = [(noised.t_BL - part * self.jump).clamp(min=0.0) for part in (0.0, 0.5, 1.0)]
        seeds_B = rng.mix(rows_B, self.recipe.seed, self.state.step, _WAY).to(self.device)
        return decoded(self.view, self.teacher, noised, where, levels, seeds_B, temperature)
