"""What a sampler is: a pure rule for which positions are written in a step, and with what.

Shape letters: B rows, L canvas length, N positions read in a step, V vocabulary.
"""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.categorical import Draw


class Sampler(Protocol):
    """Pure: no state between steps but what the canvas carries. Samplers derive from it for what stands here."""

    @property
    def name(self) -> str:
        """As settings call it."""
        ...

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of the processes it makes sense for."""
        ...

    @property
    def revises(self) -> bool:
        """Whether it may change what it has written: then a block lasts until its noise level is 0."""
        return False

    @property
    def commits_draws(self) -> bool:
        """Whether each token it writes is the draw's for that place, and stays (where noise is masks).

        Then a constraint may choose the tokens.
        """
        return False

    def default_steps(self, tokens: int) -> int:
        """Steps for so many tokens if nobody says; half of them here."""
        return -(-tokens // 2)

    def levels(
        self, canvas: Canvas, done_B: Tensor, steps_B: Tensor, *, process: Process, seeds_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The noise levels (t_B, s_B) that this step begins and ends with, float64; s = 0 is the last step of a block.

        Evenly spaced here. Equal levels are a step that corrects without removing noise.

        Args:
            canvas: the rows; `canvas.t_B` is where the last step of the block ended, 1 before the first.
            done_B: steps made in the active block.
            steps_B: steps planned for it; a block may need more where a sampler writes less than its quota.
            process: for its schedule.
            seeds_B: of this step.
        """
        t_B = (1 - done_B.double() / steps_B).clamp(min=1e-9)
        s_B = (1 - (done_B + 1).double() / steps_B).clamp(min=0.0)
        return t_B, torch.where(s_B < 1e-12, 0.0, s_B)

    def reads(self, canvas: Canvas, window: Window, *, process: Process, seeds_B: Tensor) -> Tensor:
        """bool_BL, where it wants logits in this step; nothing else is computed, and no forward runs if it is empty."""
        ...

    def gaps(self, canvas: Canvas, window: Window) -> Tensor | None:
        """bool_BL, after which places it may insert in this step, for rows that grow; None = nowhere.

        `step` then finds float64 `log_rate_BL` in the memory (the network's gap head, read there), and leaves int64
        `insert_BL`, the number of masks to insert after each place. The decoder makes room for them after all samplers.
        """
        return None

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
        """Write some of the positions. A returned `t_B` of 0 ends the row's block at once (adaptive stopping).

        Args:
            logits_NV: the network's scores where `reads` asked for them.
            index_N: those positions, flat in B*L, ascending.
            canvas: the text so far, with the noise level t_B of each row.
            window: each row's active block and the level s_B to reach.
            process: for its schedule, or its reverse.
            draw: chooses tokens.
            seeds_B: int64, this step's randomness for decisions other than the tokens.
        """
        ...


def quota(canvas: Canvas, window: Window, process: Process, *, least: int = 1) -> Tensor:
    """int64_B, how many open positions of the active block are due by the level s: at least 1, all when s = 0.

    The share (alpha_s - alpha_t) / (1 - alpha_t) of what is open, rounded up, so that a remainder goes to the earliest
    steps (as in LLaDA's `generate`). Where noise shows words nothing is closed before the end: the share is alpha_s.
    With `least` 0 it is rounded down, so that a remainder goes to the last step (as in Dream's `diffusion_generate`).
    """
    open_B = (canvas.open_BL & window.active_BL).sum(dim=1)
    share_B = process.alpha(window.s_B) if process.revises else unmasked_share(canvas, window, process)
    due_B = torch.ceil(share_B * open_B - 1e-9) if least else torch.floor(share_B * open_B + 1e-9)
    return torch.where(window.s_B <= 0, open_B, torch.minimum(due_B.long().clamp(min=least), open_B))


def unmasked_share(canvas: Canvas, window: Window, process: Process) -> Tensor:
    """float64_B, the probability (alpha_s - alpha_t) / (1 - alpha_t) that what is masked at t no longer is at s."""
    alpha_t_B, alpha_s_B = process.alpha(canvas.t_B), process.alpha(window.s_B)
    return (alpha_s_B - alpha_t_B) / (1 - alpha_t_B).clamp(min=1e-12)


def rank(score_N: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
    """int64_N, the place of each score in its row, 0 = highest; ties go to the left."""
    score_BL = torch.full(canvas.tokens_BL.shape, float("-inf"), dtype=score_N.dtype, device=score_N.device)
    score_BL.view(-1)[index_N] = score_N
    return places(score_BL).view(-1)[index_N]


def places(score_BL: Tensor) -> Tensor:
    """int64_BL, the place of each score in its row, 0 = highest; ties go to the left."""
    order_BL = score_BL.argsort(dim=1, descending=True, stable=True)
    place_L = torch.arange(order_BL.shape[1], device=order_BL.device).expand_as(order_BL)
    return torch.empty_like(order_BL).scatter_(1, order_BL, place_L)


def settle(canvas: Canvas, index_N: Tensor, tokens_N: Tensor, window: Window) -> Canvas:
    """Write what may still change: the positions are closed only in rows that reach s = 0."""
    written = canvas.write(index_N, tokens_N)
    return replace(written, open_BL=torch.where((window.s_B > 0)[:, None], canvas.open_BL, written.open_BL))


def noise_where(chosen_BL: Tensor, canvas: Canvas, process: Process, seeds_B: Tensor) -> Canvas:
    """The canvas with fresh noise at the chosen positions, which are open again."""
    fresh = process.prior(replace(canvas, open_BL=chosen_BL), seeds_B=seeds_B)
    return replace(fresh, open_BL=canvas.open_BL | chosen_BL)


def pure_noise(index_N: Tensor, canvas: Canvas, process: Process, seeds_B: Tensor) -> Canvas:
    """The canvas at level 1, with nothing but noise at these positions.

    A reverse step from here to level s is a draw from q_s(. | prediction), whatever stood there.
    """
    chosen_BL = torch.zeros_like(canvas.open_BL)
    chosen_BL.view(-1)[index_N] = True
    return replace(noise_where(chosen_BL, canvas, process, seeds_B), t_B=torch.ones_like(canvas.t_B))


def finish(canvas: Canvas, done_B: Tensor, window: Window) -> Canvas:
    """End the active block of these rows with what stands there."""
    open_BL = canvas.open_BL & ~(done_B[:, None] & window.active_BL)
    return replace(canvas, open_BL=open_BL, t_B=torch.where(done_B, 0.0, canvas.t_B))


def open_in_block(canvas: Canvas) -> Tensor:
    """bool_BL, the open positions of each row's active block, for `levels`, which knows no window."""
    return canvas.open_BL & (canvas.memory["block_BL"] == canvas.memory["active_B"][:, None])


def planned_steps(canvas: Canvas, window: Window) -> Tensor:
    """int64_B, the steps planned for the active block."""
    return torch.where(window.active_BL, canvas.memory["steps_BL"], 0).amax(dim=1)
