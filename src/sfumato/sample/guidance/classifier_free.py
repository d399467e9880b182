"""Classifier-free guidance: away from what the network would say to another prompt, or to none.

The guided log-probabilities are c + scale * (c - u), up to a constant: u is the network's answer where the prompt is
hidden (LLaDA's cfg_scale), or where another prompt stands. With gamma = scale + 1 this is gamma * c + (1 - gamma) * u.
It acts on the prediction of the clean text, so how many positions a step writes is not changed: guiding the reverse
process itself would unmask too early (Rojas et al. 2025, 2507.08965, who also find that guidance at high noise levels
harms; see `levels`).

Sources: Nie et al. 2024 (2410.18514, section 3.2) for the hidden prompt; Schiff et al. 2024 (2412.10193, eq. 6) for
gamma.

Shape letters: G branches, N positions read, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.canvas import Canvas
from sfumato.sample.guidance.seam import Branch, check_levels


@dataclass(frozen=True)
class ClassifierFree:
    """One more forward pass a step; a scale of 0 is no guidance and costs nothing."""

    scale: float = 1.0
    against: tuple[int, ...] | None = None
    """Tokens to stand before the first editable place instead of the prompt; None hides the prompt: everything given
    but the row's first token and ends of text."""
    levels: tuple[float, float] = (0.0, 1.0)
    whole: bool = False
    """Hide the row's first token and ends of text, too, as LLaDA does."""

    def __post_init__(self) -> None:
        """Refuse what is no scale and no range of levels."""
        if not -1 <= self.scale < float("inf"):
            raise ValueError(f"guidance: expected a scale of at least -1 (0 = none), got {self.scale}")
        check_levels(self.levels)

    def branches(self, tokens: Sequence[int], editable: Sequence[bool], end_id: int) -> list[Branch]:
        """The row with the other prompt."""
        if self.scale == 0:
            return []
        if self.against is None:
            hidden = [
                not e and (self.whole or (i > 0 and token != end_id))
                for i, (token, e) in enumerate(zip(tokens, editable, strict=True))
            ]
            return [Branch(tokens, editable, hidden)]
        first = list(editable).index(True)
        tokens = [*self.against, *tokens[first:]]
        editable = [False] * len(self.against) + list(editable[first:])
        return [Branch(tokens, editable, [False] * len(tokens))]

    def combine(self, logits_GNV: Sequence[Tensor], index_N: Tensor, canvas: Canvas) -> Tensor:
        """U + (scale + 1) * (c - u), where both are finite; else c."""
        if self.scale == 0:
            return logits_GNV[0]
        wide = torch.promote_types(logits_GNV[0].dtype, torch.float32)
        told_NV, other_NV = (logits_NV.to(wide) for logits_NV in logits_GNV)
        guided_NV = other_NV + (self.scale + 1) * (told_NV - other_NV)
        return torch.where(told_NV.isfinite() & other_NV.isfinite(), guided_NV, told_NV)
