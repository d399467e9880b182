"""What a process hands to the network and gets back from it.

Shape letters: B rows, L canvas length, N scored positions (padded to a fixed capacity), V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.canvas import Canvas


@dataclass(frozen=True)
class Noised:
    """A noised batch, and where and with what weight the network's prediction counts."""

    inputs_BL: Tensor
    """int64, what the network sees."""
    clean_BL: Tensor
    """int64, what it should say."""
    t_BL: Tensor
    """float64, 0 clean, 1 noise; constant along a row, or along a block."""
    weight_BL: Tensor
    """float32, the factor that makes the sum over scored positions an unbiased bound; 0 where nothing is scored."""
    index_N: Tensor
    """int64, flat positions where logits are wanted; -1 = padding up to the capacity."""

    def scored(self, value_BL: Tensor) -> Tensor:
        """The values at the scored positions, (N,); at padding, whatever stands in the first place."""
        return value_BL.flatten()[self.index_N.clamp(min=0)]

    @property
    def weight_N(self) -> Tensor:
        """float32 (N,), zero at padding."""
        return self.scored(self.weight_BL) * (self.index_N >= 0)

    def to(self, device: torch.device) -> "Noised":
        """The batch on the network's device; t becomes float32, which is how the network reads it."""
        return Noised(
            self.inputs_BL.to(device),
            self.clean_BL.to(device),
            self.t_BL.float().to(device),
            self.weight_BL.to(device),
            self.index_N.to(device),
        )

    @property
    def target_N(self) -> Tensor:
        """int64 (N,), the clean tokens; -100 at padding, which a cross-entropy leaves out."""
        return torch.where(self.index_N >= 0, self.scored(self.clean_BL), -100)


def pack(scored_BL: Tensor, capacity: int | None) -> Tensor:
    """Flat positions of the true entries, int64 (N,), padded with -1 to `capacity` (None: as many as there are).

    A fixed capacity keeps shapes static and nothing waits for a count to reach the host.
    """
    if capacity is None:
        return scored_BL.flatten().nonzero().flatten()
    return torch.nonzero_static(scored_BL.flatten(), size=capacity, fill_value=-1).flatten()


class Process(Protocol):
    """How clean text becomes noise and what is scored. No weights, no state."""

    name: str
    shift: int
    """0, or 1 where the hidden state at i - 1 predicts position i."""

    def times(self, seed: int, step: int, rows_B: Tensor, batch: int) -> Tensor:
        """Noise levels t_B (float64) of the rows with these global indices in a global batch of `batch` rows."""
        ...

    def corrupt(
        self, clean_BL: Tensor, t_BL: Tensor, *, editable_BL: Tensor, seeds_B: Tensor, capacity: int | None = None
    ) -> Noised:
        """Noise the editable positions to level t; the rest stays as it is and is never scored."""
        ...

    def capacity(self, batch: int, length: int) -> int:
        """How many positions of (batch, length) can be scored: a fixed upper size for index_N."""
        ...

    def loss(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N: what training minimises."""
        ...

    def bound(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N: the sum estimates the negative ELBO (autoregressive: the exact value) without bias."""
        ...

    def prior(self, canvas: Canvas) -> Canvas:
        """The canvas with every open position set to pure noise."""
        ...

    def alpha(self, t_B: Tensor) -> Tensor:
        """Probability that a token is still clean at t; float64."""
        ...


def cross_entropy(logits_NV: Tensor, noised: Noised) -> Tensor:
    """nats_N of the clean tokens, 0 at padding; float32, or float64 for float64 logits."""
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return torch.nn.functional.cross_entropy(logits_NV, noised.target_N, reduction="none")
