"""What a process is, and what it hands to the network and gets back from it.

Shape letters: B rows, L canvas length, N scored positions (padded to a fixed capacity), V vocabulary, E size of
an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import embedding

from sfumato.canvas import Canvas, Where

Embed = Callable[[Tensor], Tensor]
"""From tokens_BL to vectors_BLE; only a process that noises embeddings asks for it."""


@dataclass(frozen=True)
class Gaps:
    """Where noise has removed tokens from a row: what is left has moved together, with padding at the end."""

    source_BL: Tensor
    """int64, the column of the clean row that each place came from; -1 = padding that the removal left."""
    missing_BL: Tensor
    """float32, tokens missing right after each place; -1 where none can be (padding, between fixed tokens)."""
    even_BL: Tensor
    """float32, what would be missing were all tokens of the hole spread evenly over its gaps; positive where
    `missing_BL` is."""

    def to(self, device: torch.device) -> "Gaps":
        """On the network's device."""
        return Gaps(self.source_BL.to(device), self.missing_BL.to(device), self.even_BL.to(device))


@dataclass(frozen=True)
class Noised:
    """A noised batch, and where and with what weight the network's prediction counts."""

    inputs_BL: Tensor
    """What the network sees: int64 tokens, or float vectors (B, L, E) of a process that noises embeddings."""
    clean_BL: Tensor
    """int64, what it should say."""
    t_BL: Tensor
    """float64, 0 clean, 1 noise; constant along a row, or along a noise group."""
    weight_BL: Tensor
    """float32, the factor that makes the sum over scored positions an unbiased bound; 0 where nothing is scored."""
    index_N: Tensor
    """int64, flat positions where logits are wanted; -1 = padding up to the capacity."""
    vectors_VE: Tensor | None = None
    """The embedding of every token, where embeddings are noised."""
    gaps: Gaps | None = None
    """Where tokens are missing, for a process whose rows grow; None = every token is still in its place."""

    def where(self, clean: Where) -> Where:
        """Who the places of `inputs_BL` are, from who those of the clean row are.

        Where tokens are missing, those that are left are counted anew in their document; blocks do not survive that.
        """
        if self.gaps is None:
            return clean
        assert clean.document_BQ is not None and clean.block_BQ is None
        source_BL = self.gaps.source_BL
        there_BL, from_BL = source_BL >= 0, source_BL.clamp(min=0)
        was_BL = clean.position_BQ.gather(1, from_BL)
        place_BL = torch.arange(source_BL.shape[1], device=source_BL.device).expand_as(source_BL)
        first_BL = torch.where(was_BL == 0, place_BL, 0).cummax(dim=1).values  # a document's first token is fixed
        position_BL = torch.where(there_BL & (was_BL >= 0), place_BL - first_BL, -1)
        return Where(position_BL, torch.where(there_BL, clean.document_BQ.gather(1, from_BL), -1))

    def scored(self, value_BL: Tensor) -> Tensor:
        """The values at the scored positions, (N,); at padding, whatever stands in the first place."""
        return value_BL.flatten()[self.index_N.clamp(min=0)]

    @property
    def weight_N(self) -> Tensor:
        """float32 (N,), zero at padding."""
        return self.scored(self.weight_BL) * (self.index_N >= 0)

    @property
    def t_N(self) -> Tensor:
        """The noise levels (N,), as precise as they are; at padding, whatever stands in the first place."""
        return self.scored(self.t_BL)

    def to(self, device: torch.device) -> "Noised":
        """The batch on the network's device; t becomes float32 where that has nothing better (mps)."""
        return Noised(
            self.inputs_BL.to(device),
            self.clean_BL.to(device),
            self.t_BL.to(device, torch.float32) if device.type == "mps" else self.t_BL.to(device),
            self.weight_BL.to(device),
            self.index_N.to(device),
            None if self.vectors_VE is None else self.vectors_VE.to(device),
            None if self.gaps is None else self.gaps.to(device),
        )

    def read_N(self, where: Where, shift: int) -> Tensor:
        """int64 (N,), the flat places whose hidden states predict the scored ones; at padding, some place.

        With a shift that is the place before. The first of a document has none, so it stands for itself.

        Args:
            where: who the places of the clean row are, on the same device.
            shift: see `Process.shift`.
        """
        index_N = self.index_N.clamp(min=0)
        if not shift:
            return index_N
        return (index_N - (where.position_BQ.flatten()[index_N] > 0).long() * shift).clamp(min=0)

    @property
    def clean_inputs_BL(self) -> Tensor:
        """What the network would see without noise: tokens, or vectors (B, L, E)."""
        return self.clean_BL if self.vectors_VE is None else embedding(self.clean_BL, self.vectors_VE)

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
    """How clean text becomes noise, what is scored, and how noise is undone. No weights, no state."""

    name: str

    @property
    def shift(self) -> int:
        """0, or 1 where the hidden state at i - 1 predicts position i.

        Always 1 in an autoregressive model; a masked one made from such a model may keep it.
        """
        ...

    revises: bool
    """Whether an open position shows a token that says something and may still change (uniform, hybrid, gaussian).
    Where it does not (masked, autoregressive), a written position is final unless a sampler opens it again."""

    def times(self, seed: int, step: int, rows_B: Tensor, batch: int, blocks: int = 1) -> Tensor:
        """Low-discrepancy noise levels t, float64 (B, blocks), of these rows of a global batch of `batch` rows."""
        ...

    def corrupt(
        self,
        clean_BL: Tensor,
        t_BL: Tensor,
        *,
        editable_BL: Tensor,
        seeds_B: Tensor,
        block_BL: Tensor | None = None,
        capacity: int | None = None,
        embed: Embed | None = None,
    ) -> Noised:
        """Noise the editable positions to level t; the rest stays as it is and is never scored.

        Args:
            clean_BL: int64 tokens.
            t_BL: float64 in [0, 1], constant inside a noise group; (B, 1) is enough where a row is one group.
            editable_BL: bool; only these are noised and scored.
            seeds_B: int64, one a row; the noise is a function of (seed, position in the row).
            block_BL: int64 in [0, L), the noise group of each position; None = every row is one group.
            capacity: fixed number of scored positions, None for as many as there are.
            embed: the network's embedding, for a process that noises embeddings.
        """
        ...

    def capacity(self, batch: int, length: int, blocks: int = 1) -> int:
        """How many positions of (batch, length), in `blocks` noise groups a row, can be scored: the size of index_N."""
        ...

    def loss(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N: what training minimises."""
        ...

    def bound(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N: the sum estimates the negative ELBO (autoregressive: the exact value) without bias."""
        ...

    def prior(self, canvas: Canvas, *, seeds_B: Tensor, embed: Embed | None = None) -> Canvas:
        """The canvas with every open position set to pure noise, a function of (seed, position)."""
        ...

    def reverse(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas, s_B: Tensor) -> Tensor:
        """Log q(z_s | z_t, prediction), one step back from the canvas's level t to s.

        Args:
            logits_NV: the network's scores at those positions.
            index_N: int64, flat positions of the canvas, whose tokens are z_t.
            canvas: the text at level t_B.
            s_B: float64, the level to reach, at most t; at 0 the result is p(clean | everything seen).

        Returns:
            float64 log-probabilities (N, V), normalised.
        """
        ...

    def denoised(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        """logits_NV of p(clean token | everything seen, the position itself included), up to a constant a row."""
        ...

    def alpha(self, t_B: Tensor) -> Tensor:
        """Probability that a token has not been resampled at t (gaussian: the signal level); float64."""
        ...


@runtime_checkable
class Growing(Process, Protocol):
    """A process whose noise removes tokens, so that rows grow in generation.

    Its network has a second head, "gap": the log of the rate at which tokens appear right after a position, per unit of
    alpha. What it says is scored apart from the tokens, on all places.
    """

    @property
    def mask_id(self) -> int:
        """What an inserted token is at first."""
        ...

    def gap_loss(self, log_rate_BL: Tensor, noised: Noised) -> Tensor:
        """nats_BL: what training minimises besides `loss`; 0 where no gap is."""
        ...

    def gap_bound(self, log_rate_BL: Tensor, noised: Noised) -> Tensor:
        """nats_BL: with `bound`, the sum estimates the negative ELBO without bias."""
        ...


def scorable(process: Process, editable_BL: Tensor, position_BL: Tensor) -> Tensor:
    """bool_BL, the editable places that a process can score: left to right, nothing predicts a document's first one."""
    return editable_BL & (position_BL > 0) if process.name == "autoregressive" else editable_BL


def cross_entropy(logits_NV: Tensor, noised: Noised) -> Tensor:
    """nats_N of the clean tokens, 0 at padding; float32, or float64 for float64 logits."""
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return torch.nn.functional.cross_entropy(logits_NV, noised.target_N, reduction="none")
