"""Ordered sampling: in each step, write where the network is surest.

`confidence` takes the highest top probability (LLaDA's low-confidence remasking, MaskGIT), `margin` the largest gap
between the best two (Kim et al. 2025, 2502.06768: better on puzzles), `entropy` the smallest entropy (Dream).

The score is of the network's own distribution, before temperature, and tokens are drawn only where they are written. At
temperature 0 this is LLaDA's rule, which scores the drawn token.

Shape letters: B rows, L canvas length, N scored positions, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.categorical import Draw
from sfumato.sample.sampler import quota, rank


@dataclass(frozen=True)
class Order:
    """Write the quota of each step in the order of a score: confidence, margin or entropy."""

    name: str = "confidence"

    processes = ("masked",)

    def reads(self, canvas: Canvas, window: Window, *, process: Process, seeds_B: Tensor) -> Tensor:
        """Every open position of the active block."""
        return canvas.open_BL & window.active_BL

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
        """Write the best of each row."""
        row_N = index_N // canvas.tokens_BL.shape[1]
        score_N = certainty(logits_NV, self.name)
        write_N = rank(score_N, index_N, canvas) < quota(canvas, window, process)[row_N]
        chosen_C = write_N.nonzero().flatten()
        index_C = index_N[chosen_C]
        return canvas.write(index_C, draw(logits_NV[chosen_C], index_C, canvas))


def certainty(logits_NV: Tensor, name: str) -> Tensor:
    """How sure the network is at each position, float32_N: higher is surer.

    Args:
        logits_NV: any float type.
        name: confidence (top probability), margin (gap of the best two probabilities) or entropy (its negative, nats).
    """
    logits_NV = logits_NV.float()
    if name == "confidence":
        return torch.exp(logits_NV.amax(dim=-1) - logits_NV.logsumexp(dim=-1))
    if name == "margin":
        best_N2 = torch.exp(logits_NV.topk(2, dim=-1).values - logits_NV.logsumexp(dim=-1, keepdim=True))
        return best_N2[:, 0] - best_N2[:, 1]
    assert name == "entropy", name
    return -entropy(logits_NV)


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy of each distribution in nats, float32_N; tokens at -inf add nothing."""
    log_p_NV = logits_NV.float().log_softmax(dim=-1)
    return -(log_p_NV.exp() * log_p_NV.clamp(min=-1e30)).sum(dim=-1)
