"""Ordered sampling: in each step, write where the network is surest.

`confidence` takes the highest top probability (LLaDA's low-confidence remasking, MaskGIT), `margin` the largest gap
between the best two (Kim et al. 2025, 2502.06768: better on puzzles), `entropy` the smallest entropy (Dream).

The score is of the network's own distribution, before temperature, and tokens are drawn only where they are written,
unless `judged` says otherwise. Exact for masked diffusion at one token a step.

Shape letters: B rows, L canvas length, N scored positions, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.acceptance import Acceptance, Judged
from sfumato.sample.pace import dream_levels
from sfumato.sample.sampler import quota, rank

WHERE = 17  # draw index


@dataclass(frozen=True)
class Order(Acceptance):
    """Write the quota of each step in the order of a score: confidence, margin or entropy."""

    name: str = "confidence"
    pace: str = "even"
    """How many positions a step writes (`sample.pace`)."""
    order_temperature: float = 0.0
    """Which positions are written is drawn, one after the other, in proportion to exp(score / temperature); 0 = the
    best (Dream's `alg_temp`)."""

    def levels(
        self, canvas: Canvas, done_B: Tensor, steps_B: Tensor, *, process: Process, seeds_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evenly spaced, or Dream's."""
        if self.pace == "dream":
            return dream_levels(done_B, steps_B)
        return super().levels(canvas, done_B, steps_B, process=process, seeds_B=seeds_B)

    def reads(self, canvas: Canvas, window: Window, *, process: Process, seeds_B: Tensor) -> Tensor:
        """Every open position of the active block; none where Dream's pace leaves the masks as they are."""
        read_BL = super().reads(canvas, window, process=process, seeds_B=seeds_B)
        if self.pace == "even" or process.revises:
            return read_BL
        return read_BL & (self._due(canvas, window, process) > 0)[:, None]

    def chosen(self, judged: Judged, canvas: Canvas, window: Window, process: Process) -> Tensor:
        """The best of each row."""
        row_N = judged.index_N // canvas.tokens_BL.shape[1]
        score_N = certainty(judged.logits_NV, self.name, judged.tokens_N)
        if self.order_temperature:  # the largest of Gumbel-perturbed scores are such draws without replacement
            u_N = rng.uniform(judged.seeds_B[row_N], canvas.position_BL.flatten()[judged.index_N], WHERE)
            score_N = score_N.double() / self.order_temperature - (-u_N.log()).log()
        return rank(score_N, judged.index_N, canvas) < self._due(canvas, window, process)[row_N]

    def _due(self, canvas: Canvas, window: Window, process: Process) -> Tensor:
        return quota(canvas, window, process, least=int(self.pace == "even"))


def certainty(logits_NV: Tensor, name: str, tokens_N: Tensor | None = None) -> Tensor:
    """How sure the network is at each position, float32_N (float64 for float64 logits): higher is surer.

    Args:
        logits_NV: any float type.
        name: confidence (top probability), margin (gap of the best two probabilities) or entropy (its negative, nats).
        tokens_N: int64, for the confidence of these tokens instead.
    """
    p_NV = torch.softmax(logits_NV, dim=-1, dtype=torch.promote_types(logits_NV.dtype, torch.float32))
    if name == "entropy":  # so as Dream adds it up: what is less probable than 1e-10 counts nothing
        return torch.linalg.vecdot(p_NV, (p_NV + 1e-10).log_())
    # One softmax, then passes that write nothing: `logsumexp` and `topk` take 1.3-1.6 times as long on a CPU.
    if name == "confidence":
        return p_NV.amax(dim=-1) if tokens_N is None else p_NV.gather(1, tokens_N[:, None]).squeeze(1)
    assert name == "margin", name
    best = p_NV.max(dim=-1, keepdim=True)
    second_N = p_NV.scatter_(1, best.indices, 0.0).amax(dim=-1)
    return best.values.squeeze(1) - second_N


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy of each distribution in nats, float32_N; tokens at -inf add nothing."""
    log_p_NV = torch.log_softmax(logits_NV, dim=-1, dtype=torch.float32).clamp_(min=-1e30)
    return -torch.linalg.vecdot(log_p_NV.exp(), log_p_NV)
