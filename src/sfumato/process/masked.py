"""Masked (absorbing-state) diffusion.

The bound is E_t [-alpha'(t) / (1 - alpha(t)) * sum over masked positions of -log p(clean | noised)]; it has the same
value for every schedule and equals the loss of an autoregressive model averaged over all orders. The network needs no
time input, and unmasked positions are copied, never scored.

Sources: Sahoo et al. 2024 (MDLM, 2406.07524, eq. 10); Shi et al. 2024 (MD4, 2406.04329, eq. 4); Nie et al. 2025
(LLaDA, 2502.09992, eq. 14 for the fixed count); Ou et al. 2024 (RADD, 2406.03736, for the orders).

Shape letters: B rows, L canvas length, N scored positions, V vocabulary.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas
from sfumato.process.noised import Noised, cross_entropy, pack
from sfumato.process.schedule import Linear, Schedule

_TIME, _MASK = 1, 2  # draw indices: what a random number is for


@dataclass(frozen=True)
class Masked:
    """Tokens are replaced by the mask token, independently, with probability 1 - alpha(t).

    Objectives (what training minimises; `bound` is unbiased under each of them):
        elbo: masks drawn independently at a low-discrepancy t, weight -alpha'/(1 - alpha).
        count: exactly ceil(t n) of the n editable positions are masked, weight n / count; half the standard deviation.
        cross_entropy: masks as in elbo, weight 1: trains better per FLOP, is no bound (evaluate with `bound`).
    """

    mask_id: int
    schedule: Schedule = field(default_factory=Linear)
    objective: str = "elbo"

    name = "masked"
    shift = 0

    def times(self, seed: int, step: int, rows_B: Tensor, batch: int) -> Tensor:
        """Low-discrepancy noise levels: one in each of `batch` equal strata, all shifted by one random number.

        Source: Kingma et al. 2021 (VDM, 2107.00630, appendix I.1).
        """
        offset = rng.uniform(torch.tensor([seed]), step, _TIME)
        return (rows_B.double() / batch + offset.to(rows_B.device)) % 1.0

    def corrupt(
        self, clean_BL: Tensor, t_BL: Tensor, *, editable_BL: Tensor, seeds_B: Tensor, capacity: int | None = None
    ) -> Noised:
        """Mask editable positions to level t.

        Args:
            clean_BL: int64 tokens.
            t_BL: float64 in (0, 1]; (B, 1) is enough.
            editable_BL: bool; only these are masked and scored.
            seeds_B: int64, one a row; the masks are a function of (seed, position in the row).
            capacity: fixed number of scored positions, None for as many as were masked.

        Returns:
            `Noised` with masks, weights for the bound, and the masked positions as scored.
        """
        length = clean_BL.shape[1]
        place_L = torch.arange(length, device=clean_BL.device)
        u_BL = rng.uniform(seeds_B[:, None], place_L[None, :], _MASK)
        t_BL = t_BL.to(torch.float64).expand(clean_BL.shape)
        if self.objective == "count":
            masked_BL, weight_BL = self._fixed_count(u_BL, t_BL[:, :1], editable_BL)
        else:
            noise_BL = 1 - self.schedule.alpha(t_BL)
            masked_BL = (u_BL < noise_BL) & editable_BL
            weight_BL = -self.schedule.dalpha(t_BL) / noise_BL.clamp(min=1e-12)
        inputs_BL = torch.where(masked_BL, self.mask_id, clean_BL)
        weight_BL = torch.where(masked_BL, weight_BL, 0.0).float()
        return Noised(inputs_BL, clean_BL, t_BL, weight_BL, pack(masked_BL, capacity))

    @staticmethod
    def _fixed_count(u_BL: Tensor, t_B1: Tensor, editable_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Mask exactly ceil(t n) of each row's n editable positions: those with the smallest random numbers."""
        rank_BL = torch.where(editable_BL, u_BL, 2.0).argsort(dim=1).argsort(dim=1)
        editable_B1 = editable_BL.sum(dim=1, keepdim=True).double()
        count_B1 = torch.ceil(t_B1 * editable_B1).clamp(min=1)
        masked_BL = (rank_BL < count_B1) & editable_BL
        return masked_BL, editable_B1 / count_B1

    def capacity(self, batch: int, length: int) -> int:
        """Six standard deviations above the mean number of masks, so that an overflow is a one-in-a-billion event."""
        mean = self.schedule.mean_noise * batch * length
        # Stratified t leaves the offset (at most half a row) and the masks' own variance, t (1 - t) = 1/6 on average.
        spread = 0.5 * length + 6 * math.sqrt(batch * length / 6) + batch  # a fixed count is rounded up in each row
        return min(batch * length, math.ceil(mean + spread))

    def loss(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N of the objective, zero at padding; float32 or better."""
        if self.objective != "cross_entropy":
            return self.bound(logits_NV, noised)
        return cross_entropy(logits_NV, noised)

    def bound(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N whose sum is an unbiased estimate of the negative ELBO of the editable positions."""
        return cross_entropy(logits_NV, noised) * noised.weight_N

    def prior(self, canvas: Canvas) -> Canvas:
        """Every open position masked."""
        return replace(canvas, tokens_BL=torch.where(canvas.open_BL, self.mask_id, canvas.tokens_BL))

    def alpha(self, t_B: Tensor) -> Tensor:
        """The schedule's signal level."""
        return self.schedule.alpha(t_B)
