"""A language so small that all of it can be written down, to test the arithmetic of diffusion on this machine.

For a denoiser that knows the exact conditionals, the bound of masked diffusion equals the entropy; a bound below the
entropy is impossible, and a sign that something computes wrongly.

Shape letters: B rows, Q positions run, N scored positions, T texts, L length, V vocabulary.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.doctor.finding import Finding, judged
from sfumato.evaluate.enumeration import enumerated
from sfumato.model.layout import Full, Layout
from sfumato.model.transformer import Denoiser
from sfumato.process import Masked

_WORDS, _LENGTH = 3, 4  # 81 texts of the ids 0, 1, 2
_MASK = _WORDS


class Exact:
    """As much of a `Denoiser` as the bound needs: log p(word | the other words that are not masked), float64."""

    def __init__(self, probability_T: Tensor):
        """Of texts in the order of `texts`."""
        joint = probability_T.view((_WORDS,) * _LENGTH)
        self._table = torch.zeros((_WORDS + 1,) * _LENGTH + (_LENGTH, _WORDS + 1), dtype=torch.float64)
        for seen in product(range(_WORDS + 1), repeat=_LENGTH):
            for place in range(_LENGTH):
                part = joint
                for other in reversed(range(_LENGTH)):
                    if other != place:
                        known = seen[other] != _MASK
                        part = part.select(other, seen[other]) if known else part.sum(dim=other)
                self._table[seen][place] = torch.cat((part.log(), torch.tensor([-torch.inf]).double()))

    def encode(self, inputs_BQ: Tensor, *, where: Where, layout: Layout, read_N: Tensor, **others: Any) -> Tensor:
        """hidden_NV, the logits themselves."""
        return self._table[tuple(inputs_BQ.T)].flatten(0, 1)[read_N].log_softmax(dim=-1)

    def readout(self, hidden_ND: Tensor, head: str = "token") -> Tensor:
        """Them again."""
        return hidden_ND


def texts() -> Tensor:
    """All texts, int64 (T, L)."""
    return torch.tensor(list(product(range(_WORDS), repeat=_LENGTH)))


def bound_and_entropy(seed: int = 0, *, mistake: float = 0.0) -> tuple[float, float]:
    """The bound of an exact denoiser on a random language, and the entropy of that, in nats a text.

    Args:
        seed: of the language.
        mistake: how far the denoiser's idea of the language is from it; with any, the bound must lie above.
    """
    rows_TL = texts()
    logits_T, wrong_T = torch.randn(2, len(rows_TL), generator=torch.Generator().manual_seed(seed)).double()
    probability_T = logits_T.softmax(dim=0)
    place_TL = torch.arange(_LENGTH).expand_as(rows_TL)
    batch = Batch(rows_TL, place_TL, torch.zeros_like(rows_TL), torch.ones_like(rows_TL, dtype=torch.bool))
    denoiser = cast(Denoiser, Exact((logits_T + mistake * wrong_T).softmax(dim=0)))
    nats_T = enumerated(denoiser, Masked(_MASK), Full(), batch, rows=1024)
    return float(probability_T @ nats_T), -float(probability_T @ probability_T.log())


def oracle() -> Iterator[Finding]:
    """The bound equals the entropy where the denoiser is exact, and lies above it where it is not."""
    bound, entropy = bound_and_entropy()
    above, _ = bound_and_entropy(mistake=0.5)
    yield judged(
        abs(bound - entropy) < 1e-5 and above > entropy,
        "bound and entropy",
        f"bound {bound:.6f}, entropy {entropy:.6f}, bound of a wrong denoiser {above:.6f} nats",
        "the arithmetic of this machine or of its torch is wrong: install another torch, test the memory",
        "fail",
        bound=bound,
        entropy=entropy,
    )
