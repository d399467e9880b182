"""Factor sampling: write the n surest positions at once, for the largest n whose least sure one still allows it.

With p the n-th highest top probability, n positions are written if (n + 1) (1 - p) <= factor. With factor 1 or below,
what is written at temperature 0 is then also the most probable text under every joint distribution with those
marginals. So many positions are written together as are sure together, where a threshold looks at each alone.

Source: Wu et al. 2025 (Fast-dLLM, 2505.22618, section 3.3, theorem 1).

Shape letters: B rows, L canvas length, N positions read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.acceptance import Acceptance, Judged
from sfumato.sample.order import certainty
from sfumato.sample.sampler import quota, rank


@dataclass(frozen=True)
class Factor(Acceptance):
    """Confidence order, as many at once as are sure together, and at least the step's quota."""

    factor: float = 1.0
    name = "factor"

    def default_steps(self, tokens: int) -> int:
        """One a token; it takes fewer."""
        return tokens

    def chosen(self, judged: Judged, canvas: Canvas, window: Window, process: Process) -> Tensor:
        """The best of each row, up to the last whose probability allows for its rank."""
        row_N = judged.index_N // canvas.tokens_BL.shape[1]
        score_N = certainty(judged.logits_NV, "confidence", judged.tokens_N)
        place_N = rank(score_N, judged.index_N, canvas)
        allowed_N = (place_N + 2) * (1 - score_N) <= self.factor
        count_B = quota(canvas, window, process)
        return place_N < count_B.scatter_reduce(0, row_N, torch.where(allowed_N, place_N + 1, 0), "amax")[row_N]
