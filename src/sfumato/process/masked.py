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
from sfumato.process.noised import Embed, Noised, cross_entropy, pack
from sfumato.process.schedule import Linear, Schedule
from sfumato.process.times import low_discrepancy
from sfumato.process.weighting import context_weight, focal, unnormalised

_MASK = 2  # draw index: what a random number is for


@dataclass(frozen=True)
class Masked:
    """Tokens are replaced by the mask token, independently, with probability 1 - alpha(t).

    Objectives (what training minimises; `bound` is unbiased under each of them):
        elbo: masks drawn independently at a low-discrepancy t, weight -alpha'/(1 - alpha). The loss of discrete flow
            matching (Gat et al. 2024, 2407.15595) from a mask source is the same, and goes by this name too.
        count: exactly ceil(t n) of the n editable positions of each noise group are masked, weight n / count; half the
            standard deviation.
        cross_entropy: masks as in elbo, weight 1: trains better per FLOP, is no bound (evaluate with `bound`).
        cart: as cross_entropy, but a masked position counts the more, the more it sees nearby (`context_weight`).
        score_entropy: SEDD's loss; logits + log(alpha / (1 - alpha)) are taken as unnormalised log-ratios
            (`unnormalised`). At its minimum the logits are normalised and it equals the bound; elsewhere it is above.
        mgdm: cross-entropy with focal weights that favour low noise and hard tokens (`focal`).
    """

    mask_id: int
    schedule: Schedule = field(default_factory=Linear)
    objective: str = "elbo"
    levels: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest t of training."""
    shift: int = 0
    """1 in a network that was autoregressive and goes on predicting from the place before; see `Process.shift`."""

    name = "masked"
    revises = False

    def times(self, seed: int, step: int, rows_B: Tensor, batch: int, blocks: int = 1) -> Tensor:
        """Low-discrepancy noise levels, float64 (B, blocks)."""
        return low_discrepancy(seed, step, rows_B, batch, blocks, self.levels)

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
        """Mask editable positions to level t; see `Process.corrupt`.

        Returns:
            `Noised` with masks, weights for the bound, and the masked positions as scored.
        """
        place_L = torch.arange(clean_BL.shape[1], device=clean_BL.device)
        u_BL = rng.uniform(seeds_B[:, None], place_L[None, :], _MASK)
        t_BL = t_BL.to(torch.float64).expand(clean_BL.shape)
        if self.objective == "count":
            masked_BL, weight_BL = _fixed_count(u_BL, t_BL, editable_BL, block_BL)
        else:
            noise_BL = 1 - self.schedule.alpha(t_BL)
            masked_BL = (u_BL < noise_BL) & editable_BL
            weight_BL = -self.schedule.dalpha(t_BL) / noise_BL.clamp(min=1e-12)
        inputs_BL = torch.where(masked_BL, self.mask_id, clean_BL)
        weight_BL = torch.where(masked_BL, weight_BL, 0.0).float()
        return Noised(inputs_BL, clean_BL, t_BL, weight_BL, pack(masked_BL, capacity))

    def capacity(self, batch: int, length: int, blocks: int = 1) -> int:
        """Six standard deviations above the mean number of masks, so that an overflow is a one-in-a-billion event."""
        low, high = self.levels
        t = low + (high - low) * (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        mean = float((1 - self.schedule.alpha(t)).mean()) * batch * length
        # Stratified t leaves the offset (at most half a row) and the masks' own variance, t (1 - t) = 1/6 on average.
        spread = 0.5 * length + 6 * math.sqrt(batch * length / 6)
        spread += batch * blocks  # a fixed count is rounded up in each group
        return min(batch * length, math.ceil(mean + spread))

    def loss(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N of the objective, zero at padding; float32 or better."""
        match self.objective:
            case "cross_entropy":
                return cross_entropy(logits_NV, noised)
            case "cart":
                weight_BL = context_weight(noised.inputs_BL == self.mask_id)
                return cross_entropy(logits_NV, noised) * noised.scored(weight_BL)
            case "score_entropy":
                return unnormalised(logits_NV, noised) * noised.weight_N
            case "mgdm":
                return focal(cross_entropy(logits_NV, noised), 1 - self.schedule.alpha(noised.t_N))
        return self.bound(logits_NV, noised)

    def bound(self, logits_NV: Tensor, noised: Noised) -> Tensor:
        """nats_N whose sum is an unbiased estimate of the negative ELBO of the editable positions."""
        return cross_entropy(logits_NV, noised) * noised.weight_N

    def prior(self, canvas: Canvas, *, seeds_B: Tensor, embed: Embed | None = None) -> Canvas:
        """Every open position masked."""
        return replace(canvas, tokens_BL=torch.where(canvas.open_BL, self.mask_id, canvas.tokens_BL))

    def reverse(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas, s_B: Tensor) -> Tensor:
        """A mask is replaced with probability (alpha_s - alpha_t) / (1 - alpha_t), by the prediction; a word stays.

        Source: Sahoo et al. 2024 (MDLM, 2406.07524, eq. 7).
        """
        row_N = index_N // canvas.tokens_BL.shape[1]
        alpha_t_N, alpha_s_N = self.alpha(canvas.t_B)[row_N], self.alpha(s_B)[row_N]
        unmask_N = ((alpha_s_N - alpha_t_N) / (1 - alpha_t_N).clamp(min=1e-300)).clamp(max=1.0)
        token_N = canvas.tokens_BL.flatten()[index_N]
        log_q_NV = logits_NV.double().log_softmax(dim=-1) + unmask_N.log()[:, None]
        log_q_NV[:, self.mask_id] = torch.log1p(-unmask_N)
        stays_NV = torch.full_like(log_q_NV, -math.inf).scatter(1, token_N[:, None], 0.0)
        return torch.where((token_N == self.mask_id)[:, None], log_q_NV, stays_NV)

    def denoised(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        """The logits as they are: a mask says nothing about its own position."""
        return logits_NV

    def alpha(self, t_B: Tensor) -> Tensor:
        """The schedule's signal level."""
        return self.schedule.alpha(t_B)


def _fixed_count(u_BL: Tensor, t_BL: Tensor, editable_BL: Tensor, block_BL: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mask exactly ceil(t n) of the n editable positions of each group: those with the smallest random numbers.

    Returns:
        masked_BL and the weight n / count of every position's group.
    """
    length = u_BL.shape[1]
    block_BL = torch.zeros_like(u_BL, dtype=torch.int64) if block_BL is None else block_BL
    block_BL = torch.where(editable_BL, block_BL, length)  # a last group that is never masked
    sizes_BG = torch.zeros(len(u_BL), length + 1, dtype=torch.int64, device=u_BL.device)
    sizes_BG.scatter_add_(1, block_BL, torch.ones_like(block_BL))
    first_BL = (sizes_BG.cumsum(dim=1) - sizes_BG).gather(1, block_BL)
    # sorted by group and, inside it, by the random number
    rank_BL = (block_BL + u_BL).argsort(dim=1, stable=True).argsort(dim=1) - first_BL
    size_BL = sizes_BG.gather(1, block_BL).double()
    count_BL = torch.ceil(t_BL * size_BL).clamp(min=1)
    return (rank_BL < count_BL) & editable_BL, size_BL / count_BL
