"""Entropy-bounded sampling: write as many positions at once as lose at most a given number of nats.

Drawing positions independently loses their mutual information, at most the sum of their entropies less the largest. In
the order of rising entropy, positions are written while this stays within the bound. With a bound of 0 only what is
certain is written together.

Source: Ben-Hamu et al. 2025 (EB-Sampler, 2505.24857).

Shape letters: B rows, L canvas length, N positions read, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.acceptance import Acceptance, Judged
from sfumato.sample.order import entropy
from sfumato.sample.sampler import quota, rank


@dataclass(frozen=True)
class EntropyBounded(Acceptance):
    """Entropy order, as many at once as the bound allows, and at least the step's quota."""

    bound: float = 0.1
    """Nats that may be lost in a step."""
    name = "entropy_bounded"

    def default_steps(self, tokens: int) -> int:
        """One a token; it takes fewer."""
        return tokens

    def chosen(self, judged: Judged, canvas: Canvas, window: Window, process: Process) -> Tensor:
        """The smallest entropies of each row: their sum less the largest stays within the bound."""
        index_N = judged.index_N
        nats_N = entropy(judged.logits_NV)
        nats_BL = torch.full(canvas.tokens_BL.shape, float("inf"), dtype=torch.float64, device=nats_N.device)
        nats_BL.view(-1)[index_N] = nats_N.double()
        rising_BL = nats_BL.sort(dim=1).values
        smaller_BL = torch.nn.functional.pad(rising_BL[:, :-1].cumsum(dim=1), (1, 0))  # all but the largest
        fitting_B = ((smaller_BL <= self.bound) & rising_BL.isfinite()).sum(dim=1)
        count_B = torch.maximum(fitting_B, quota(canvas, window, process))
        return rank(-nats_N, index_N, canvas) < count_B[index_N // canvas.tokens_BL.shape[1]]
