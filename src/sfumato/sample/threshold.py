"""Threshold sampling: write every position whose top probability reaches a threshold, and at least the step's quota.

Easy stretches are written many tokens at a time; the number of steps becomes an upper limit.

Source: Wu et al. 2025 (Fast-dLLM, 2505.22618, algorithm 1).

Shape letters: B rows, L canvas length, N positions read.
"""

from dataclasses import dataclass

from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.acceptance import Acceptance, Judged
from sfumato.sample.order import certainty
from sfumato.sample.sampler import quota, rank


@dataclass(frozen=True)
class Threshold(Acceptance):
    """Confidence order, but everything sure enough is written at once."""

    threshold: float = 0.9
    name = "threshold"

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold: expected a probability in (0, 1], got {self.threshold}")

    def default_steps(self, tokens: int) -> int:
        """One a token; it takes fewer."""
        return tokens

    def chosen(self, judged: Judged, canvas: Canvas, window: Window, process: Process) -> Tensor:
        """The sure ones and the best of each row."""
        row_N = judged.index_N // canvas.tokens_BL.shape[1]
        score_N = certainty(judged.logits_NV, "confidence", judged.tokens_N)
        due_N = rank(score_N, judged.index_N, canvas) < quota(canvas, window, process)[row_N]
        return due_N | (score_N >= self.threshold)
