"""The noised text that decides what is removed or rounded: all noise levels in equal shares.

A diffusion model is asked about text with almost no noise and with nothing but noise; what matters at one level need
not matter at another, so importance and rounding errors are averages over levels.

Shape letters: B rows, L row length, N scored positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import nats_of, noised_rows
from sfumato.model.layout import Layout
from sfumato.model.transformer import Denoiser
from sfumato.process import Gaussian, Noised, Process


@dataclass(frozen=True)
class Calibration:
    """Rows of text, and how they are noised: as for the bound, so that averages are averages of the bound's terms."""

    process: Process
    layout: Layout
    batch: Batch
    device: torch.device = torch.device("cpu")
    """Where the networks are."""
    seed: int = 0
    rows: int = 8
    """In a forward pass."""

    def noisings(self, denoiser: Denoiser) -> "Iterator[tuple[Noised, Where]]":
        """Every row once; their noise levels are spread evenly from row to row."""
        embed = denoiser.embed if isinstance(self.process, Gaussian) else None
        for row_B in torch.arange(len(self.batch.tokens_BL)).split(self.rows):
            part, sample_B = self.batch.select(row_B), torch.zeros_like(row_B)
            yield noised_rows(self.process, self.layout, part, row_B, sample_B, 1, self.seed, embed)

    def nats(self, denoiser: Denoiser, noised: Noised, where: Where) -> Tensor:
        """float64 (B,): the terms of the bound of one forward pass, with gradients where they are enabled."""
        return nats_of(denoiser, self.process, self.layout, noised, where, self.device)

    @torch.inference_mode()
    def total(self, denoiser: Denoiser) -> float:
        """Nats of the bound on all rows together."""
        return sum(float(self.nats(denoiser, *one).sum()) for one in self.noisings(denoiser))

    @property
    def tokens(self) -> int:
        """How many count."""
        return int(self.batch.editable_BL.sum())
