"""What each layer, head and unit matters to the bound, at every noise level.

Every head and every unit of an MLP gets a gate of 1 before the matrix that reads it. The gradient of the bound with
respect to a gate says how the bound changes as the gate closes: a first-order estimate, made for each row of text by
itself. Noise levels are spread evenly over the rows, so a mean over rows is a mean over levels.

A layer's importance is its block influence: how far it turns what flows through it.

Sources: Molchanov et al. 2019 (1906.10771, eq. 8: the squared first-order term); Michel et al. 2019 (1905.10650: head
gates); Men et al. 2024 (ShortGPT, 2403.03853, eq. 1: block influence).

Shape letters: B rows in a forward pass, R rows of text, L row length, N scored positions, D width, X a layer's heads
(with grouped keys: groups) or units.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.compress.calibration import Calibration
from sfumato.model.transformer import Block, Transformer

Progress = Callable[[int, int], None]  # rows done, rows


@dataclass(frozen=True)
class Importance:
    """By row of text, float64; a mean over rows is what matters on average over noise levels."""

    t_R: Tensor
    """The mean noise level of each row."""
    layers_RY: Tensor
    """1 - cosine of what enters and what leaves each of the Y layers."""
    heads: list[Tensor]
    """Of each layer, (R, X): the squared change of the bound, nats^2, as a head closes; with grouped keys a group."""
    units: list[Tensor]
    """Of each layer, (R, X): the same of a unit of the MLP."""

    def at(self, low: float, high: float) -> "Importance":
        """The rows with a noise level in [low, high)."""
        rows = (self.t_R >= low) & (self.t_R < high)
        heads, units = ([one[rows] for one in part] for part in (self.heads, self.units))
        return Importance(self.t_R[rows], self.layers_RY[rows], heads, units)


def importance(denoiser: Transformer, calibration: Calibration, progress: Progress | None = None) -> Importance:
    """Measure it, by one backward pass for each forward pass over the text."""
    device = denoiser.final_norm.device
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)  # the gates alone
    gates = _Gates(denoiser)
    levels, influences, heads, units = [], [], [], []
    try:
        with ExitStack() as stack:
            gates.hook(stack)
            for noised, where in calibration.noisings(denoiser):
                rows = len(where.position_BQ)
                gates.open(noised.index_N // where.position_BQ.shape[1], rows, device)
                with torch.enable_grad():
                    nats_B = calibration.nats(denoiser, noised, where)
                closing = torch.autograd.grad(nats_B.sum(), [*gates.heads, *gates.units])
                squares = [(gradient_BX.double() ** 2).cpu() for gradient_BX in closing]
                heads.append(squares[: len(gates.heads)])
                units.append(squares[len(gates.heads) :])
                influences.append(torch.stack(gates.influence_B, dim=1).cpu())
                levels.append(noised.t_BL.double().expand_as(noised.clean_BL).mean(dim=1))
                if progress:
                    progress(sum(map(len, levels)), len(calibration.batch.tokens_BL))
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return Importance(
        torch.cat(levels),
        torch.cat(influences),
        [torch.cat(parts) for parts in zip(*heads, strict=True)],
        [torch.cat(parts) for parts in zip(*units, strict=True)],
    )


class _Gates:
    """The gates of a network in one forward pass, and what its layers did in it."""

    def __init__(self, denoiser: Transformer):
        self.blocks = [block for block in denoiser.blocks if isinstance(block, Block)]
        self.groups, self.width = denoiser.config.kv_heads or denoiser.config.heads, denoiser.config.mlp_width
        self.heads: list[Tensor] = []
        self.units: list[Tensor] = []
        self.influence_B: list[Tensor] = []
        self.row_N = torch.zeros(0, dtype=torch.int64)

    def open(self, row_N: Tensor, rows: int, device: torch.device) -> None:
        """Fresh gates; row_N is the row of each scored position, which is all that the last layer goes on with."""
        self.row_N, self.influence_B = row_N.to(device), []
        sizes = (self.groups, self.width)
        self.heads, self.units = (
            [torch.ones(rows, size, device=device, requires_grad=True) for _ in self.blocks] for size in sizes
        )  # noqa: E501

    def hook(self, stack: ExitStack) -> None:
        """Put them into the network until the stack is left."""
        for i, block in enumerate(self.blocks):
            for module, kind in ((block.attention.out, "heads"), (block.down, "units")):
                stack.callback(module.register_forward_pre_hook(self._gated(kind, i)).remove)
            stack.callback(block.register_forward_hook(self._watched).remove)

    def _gated(self, kind: str, layer: int) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
        def before(module: nn.Module, args: tuple[Tensor]) -> Tensor:
            gate_BX, x = getattr(self, kind)[layer], args[0]
            gate = gate_BX[:, None] if x.ndim == 3 else gate_BX[self.row_N]
            parts = x.unflatten(-1, (gate.shape[-1], -1))
            return (parts * gate[..., None].to(x.dtype)).flatten(-2)

        return before

    @torch.no_grad()
    def _watched(self, module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
        x_BLD, reads_N = args[0], args[3]
        if reads_N is None:
            self.influence_B.append(1 - F.cosine_similarity(x_BLD, result, dim=-1).double().mean(dim=1))
            return
        turned_N = 1 - F.cosine_similarity(x_BLD.flatten(0, 1)[reads_N], result, dim=-1).double()
        sums_B = turned_N.new_zeros(len(x_BLD)).index_add_(0, self.row_N, turned_N)
        self.influence_B.append(sums_B / torch.bincount(self.row_N, minlength=len(x_BLD)).clamp(min=1))
