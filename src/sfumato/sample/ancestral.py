"""Ancestral sampling: follow the reverse process q(z_s | z_t, prediction) step by step.

A masked position is unmasked with probability (alpha_s - alpha_t) / (1 - alpha_t), whatever the network says, and then
takes a token from the prediction. Where noise shows words, every open position is drawn from the reverse process.

With the exact conditionals the error falls as 1 / steps (more slowly for hybrid noise, whose words fade with sqrt t):
positions that change in the same step do not know of each other. SEDD's analytic sampler (Tweedie: (e^(-dsigma Q) s)_y
* e^(dsigma Q)(z, y)) is the same one: the ratios s that a prediction implies, taken back in time by e^(-dsigma Q), are
those of q_s(. | prediction).

Sources: Sahoo et al. 2024 (MDLM, 2406.07524, eq. 7); Austin et al. 2021 (D3PM, 2107.03006, eq. 3); Lou et al. 2024
(SEDD, 2310.16834, theorem 4.2) for the analytic sampler.

Shape letters: B rows, L canvas length, N positions read, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.categorical import Draw
from sfumato.sample.pace import dream_levels
from sfumato.sample.sampler import Sampler, settle, unmasked_share

UNMASK = 1  # draw index


@dataclass(frozen=True)
class Ancestral(Sampler):
    """Random order. Which masks to replace is decided before the network runs, so only those are read."""

    pace: str = "even"
    """Dream's is its `origin` (`sample.pace`)."""
    name = "ancestral"
    processes = ("masked", "uniform", "hybrid")

    def levels(
        self, canvas: Canvas, done_B: Tensor, steps_B: Tensor, *, process: Process, seeds_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evenly spaced, or Dream's."""
        if self.pace == "dream":
            return dream_levels(done_B, steps_B)
        return super().levels(canvas, done_B, steps_B, process=process, seeds_B=seeds_B)

    def reads(self, canvas: Canvas, window: Window, *, process: Process, seeds_B: Tensor) -> Tensor:
        """The masks that this step replaces; where noise shows words, every open position."""
        if process.revises:
            return canvas.open_BL & window.active_BL
        return due(unmasked_share(canvas, window, process), canvas, window, seeds_B)

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
        """Write every position that was read."""
        if not process.revises:
            return canvas.write(index_N, draw(logits_NV, index_N, canvas))
        log_q_NV = process.reverse(draw.prediction(logits_NV, index_N, canvas), index_N, canvas, window.s_B)
        return settle(canvas, index_N, draw.exact(log_q_NV, index_N, canvas), window)


def due(share_B: Tensor, canvas: Canvas, window: Window, seeds_B: Tensor) -> Tensor:
    """bool_BL, open positions of the active block, each with the probability `share_B`; all of them when s = 0."""
    u_BL = rng.uniform(seeds_B[:, None], canvas.position_BL, UNMASK)
    due_BL = (u_BL < share_B[:, None]) | (window.s_B <= 0)[:, None]
    return due_BL & canvas.open_BL & window.active_BL
