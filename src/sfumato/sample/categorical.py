"""The exact categorical draw.

One uniform number a draw, from a counter-based hash, put through the inverse of the cumulative distribution in float64.
Gumbel noise in float32 truncates the tail and made published results wrong (Zheng et al. 2024, 2409.02908).

Shape letters: B rows, L canvas length, N scored positions, V vocabulary.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas

WITH_WHAT = 2  # draw index; "unmask this?" is another


def categorical(logits_NV: Tensor, u_N: Tensor) -> Tensor:
    """The token whose stretch of the cumulative distribution holds u.

    Args:
        logits_NV: any float type; -inf has probability 0.
        u_N: float64 in (0, 1); or (N, M) for M draws from each distribution.

    Returns:
        int64 tokens of u's shape, each of positive probability.
    """
    weight_NV = torch.exp(logits_NV.double() - logits_NV.amax(dim=-1, keepdim=True))
    cumulative_NV = weight_NV.cumsum(dim=-1)
    target_NM = (u_N[:, None] if u_N.ndim == 1 else u_N) * cumulative_NV[:, -1:]
    drawn_NM = torch.searchsorted(cumulative_NV, target_NM, right=True)
    return drawn_NM.view(u_N.shape).clamp(max=logits_NV.shape[-1] - 1)


def keep_top(logits_NV: Tensor, top_k_N: Tensor, top_p_N: Tensor) -> Tensor:
    """-inf outside the k most probable tokens and outside the smallest set of probability p; the best always stays.

    Args:
        logits_NV: float.
        top_k_N: int64, 0 = no limit.
        top_p_N: float64 in (0, 1], 1 = no limit.
    """
    ordered_NV, order_NV = logits_NV.sort(dim=-1, descending=True, stable=True)
    probability_NV = ordered_NV.double().softmax(dim=-1)
    before_NV = probability_NV.cumsum(dim=-1) - probability_NV  # of everything more probable
    rank_V = torch.arange(logits_NV.shape[-1], device=logits_NV.device)
    drop_NV = (rank_V >= torch.where(top_k_N > 0, top_k_N, rank_V.numel())[:, None]) | (
        (before_NV >= top_p_N[:, None]) & (top_p_N[:, None] < 1)
    )
    drop_NV[:, 0] = False
    return logits_NV.masked_fill(torch.zeros_like(drop_NV).scatter(1, order_NV, drop_NV), float("-inf"))


@dataclass(frozen=True)
class Draw:
    """Chooses tokens with each row's own temperature, filters and randomness."""

    temperature_B: Tensor
    """float64, 0 = the most probable token."""
    top_k_B: Tensor
    """int64, 0 = no limit."""
    top_p_B: Tensor
    """float64, 1 = no limit."""
    seeds_B: Tensor
    """int64, of this step."""
    random: bool = True
    """False when every temperature is 0."""
    filtered: bool = True
    """False when no row limits k or p."""
    decided_BL: Tensor | None = None
    """int64, tokens that a constraint has chosen; -1 elsewhere."""
    mask_id: int | None = None
    """Never drawn, whatever its logit; None = there is no mask."""

    def __call__(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        """int64 tokens_N for the flat canvas positions index_N; padding does not change a row's draws."""
        logits_NV = self._writable(logits_NV)
        tokens_N = logits_NV.argmax(dim=-1)
        if self.random:
            drawn_N = self.exact(self._scaled(logits_NV, index_N, canvas), index_N, canvas)
            tokens_N = torch.where(self._temperature(index_N, canvas) > 0, drawn_N, tokens_N)
        if self.decided_BL is None:
            return tokens_N
        decided_N = self.decided_BL.flatten()[index_N]
        return torch.where(decided_N < 0, tokens_N, decided_N)

    def prediction(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        """The logits with each row's temperature and filters; at temperature 0 only the most probable token is left.

        For samplers that do more with a prediction than to draw from it.
        """
        logits_NV = self._writable(logits_NV)
        best_N1 = logits_NV.argmax(dim=-1, keepdim=True)
        best_NV = torch.full_like(logits_NV, float("-inf")).scatter_(1, best_N1, 0.0)
        if not self.random:
            return best_NV
        warm_N1 = self._temperature(index_N, canvas)[:, None] > 0
        return torch.where(warm_N1, self._scaled(logits_NV, index_N, canvas), best_NV)

    def filtered_logits(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        """The logits with each row's temperature, where it is above 0, and filters."""
        temperature_B = torch.where(self.temperature_B > 0, self.temperature_B, 1.0)
        return replace(self, temperature_B=temperature_B)._scaled(logits_NV, index_N, canvas)

    def softened(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        """The prediction as log-probabilities, float64, that exclude nothing: what filters drop keeps 1e-30 of it.

        For who must choose among few tokens, none of which may be probable. Rows need a temperature above 0.
        """
        logits_NV = self._writable(logits_NV)
        kept_NV = self._scaled(logits_NV, index_N, canvas)
        if not self.filtered:
            return self.floored(kept_NV)
        all_NV = replace(self, filtered=False)._scaled(logits_NV, index_N, canvas)
        return torch.where(kept_NV.isneginf(), self.floored(all_NV) + math.log(1e-30), self.floored(kept_NV))

    @staticmethod
    def floored(logits_NV: Tensor) -> Tensor:
        """Log-probabilities, float64, all finite."""
        return logits_NV.double().log_softmax(dim=-1).clamp(min=-1e5)

    def exact(self, log_p_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        """int64 tokens_N from exactly these distributions, whatever the temperature."""
        place_N, row_N = canvas.position_BL.flatten()[index_N], index_N // canvas.tokens_BL.shape[1]
        return categorical(log_p_NV, rng.uniform(self.seeds_B[row_N], place_N, WITH_WHAT))

    def _writable(self, logits_NV: Tensor) -> Tensor:
        if self.mask_id is None or not len(logits_NV):
            return logits_NV
        writable_NV = logits_NV.clone()
        writable_NV[:, self.mask_id] = float("-inf")
        return writable_NV

    def _temperature(self, index_N: Tensor, canvas: Canvas) -> Tensor:
        return self.temperature_B[index_N // canvas.tokens_BL.shape[1]]

    def _scaled(self, logits_NV: Tensor, index_N: Tensor, canvas: Canvas) -> Tensor:
        wide = torch.promote_types(logits_NV.dtype, torch.float32)  # bfloat16 would round the quotient to 3 digits
        scaled_NV = logits_NV.to(wide) / self._temperature(index_N, canvas).clamp(min=1e-6)[:, None].to(wide)
        if not self.filtered:
            return scaled_NV
        row_N = index_N // canvas.tokens_BL.shape[1]
        return keep_top(scaled_NV, self.top_k_B[row_N], self.top_p_B[row_N])
