"""Blocks that begin with their first place alone, as Fast-dLLM writes Dream's.

In a network that predicts from the place before, the first place of a block needs the last one of the block before.
Once it is written, the block needs only itself, and what the dual cache holds of the rest stays as old as it is.

Source: Wu et al. 2025 (Fast-dLLM, 2505.22618), the published loop for Dream.

Shape letters: B rows, L canvas length, N positions read, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.categorical import Draw
from sfumato.sample.sampler import Sampler


@dataclass(frozen=True)
class Leading(Sampler):
    """Another sampler, but the first step of each block writes the block's first open place and nothing else."""

    sampler: Sampler

    @property
    def name(self) -> str:
        """Of the other sampler."""
        return self.sampler.name

    @property
    def processes(self) -> tuple[str, ...]:
        """Of the other sampler, where what is written stays."""
        return tuple(name for name in self.sampler.processes if name == "masked")

    @property
    def revises(self) -> bool:
        """As the other sampler."""
        return self.sampler.revises

    @property
    def commits_draws(self) -> bool:
        """As the other sampler."""
        return self.sampler.commits_draws

    def default_steps(self, tokens: int) -> int:
        """As the other sampler."""
        return self.sampler.default_steps(tokens)

    def levels(
        self, canvas: Canvas, done_B: Tensor, steps_B: Tensor, *, process: Process, seeds_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Those of the other sampler."""
        return self.sampler.levels(canvas, done_B, steps_B, process=process, seeds_B=seeds_B)

    def reads(self, canvas: Canvas, window: Window, *, process: Process, seeds_B: Tensor) -> Tensor:
        """The first open place, then what the other sampler reads; all of it in a block of one step."""
        read_BL = self.sampler.reads(canvas, window, process=process, seeds_B=seeds_B)
        open_BL = canvas.open_BL & window.active_BL
        first_BL = open_BL & (open_BL.cumsum(dim=1) == 1)
        return torch.where(_begins(canvas, window)[:, None], first_BL, read_BL)

    def step(
        self,
        logits_NV: Tensor,
        index_N: Tensor,
        canvas: Canvas,
        window: Window,
        *,
        process: Process,
        draw: Draw,
        seeds_B: Tensor,
    ) -> Canvas:
        """The first place of rows that begin a block; the other sampler's step in the other rows."""
        begins_N = _begins(canvas, window)[index_N // canvas.tokens_BL.shape[1]]
        first_N, rest_N = begins_N.nonzero().flatten(), (~begins_N).nonzero().flatten()
        if len(first_N):
            canvas = canvas.write(index_N[first_N], draw(logits_NV[first_N], index_N[first_N], canvas))
        if not len(rest_N):
            return canvas
        return self.sampler.step(
            logits_NV[rest_N], index_N[rest_N], canvas, window, process=process, draw=draw, seeds_B=seeds_B
        )


def _begins(canvas: Canvas, window: Window) -> Tensor:
    """bool_B, rows that make the first of several steps of a block."""
    return (canvas.memory["block_step_B"] == 0) & (window.s_B > 0)
