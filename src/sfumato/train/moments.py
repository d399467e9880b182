"""What an optimiser remembers of each number in 8 bits instead of 32, and AdamW with such a memory.

Blocks of 256 numbers share a scale, the greatest of them; a code stands for one of 256 shares of it, which lie the
closer the smaller they are. The codes and scales are plain tensors of the optimiser's state, so a checkpoint holds them
and a run that was stopped goes on bit for bit.

The shares are torchao's. Its optimiser is not used: it compiles the update of each shape of parameter (a minute on a
CPU) and keeps its memory in objects that safetensors cannot hold.

Source: Dettmers et al. 2021 (8-bit Optimizers via Block-wise Quantization, 2110.02861, section 2).

Shape letters: N numbers of a parameter, X those of a block, K blocks.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sfumato.config import ConfigError

BLOCK = 256
PIECE = 2**20  # numbers that are updated together, so that what is unpacked at a time stays small


class Memory8bit:
    """Numbers by the names `<name>` and `<name>_scale` of an optimiser's state of a parameter."""

    def __init__(self, name: str, *, signed: bool):
        """signed: whether negative numbers are remembered too; else the codes are spent on the others."""
        self.name, self.signed = name, signed

    def begin(self, state: dict[str, Any], parameter: Tensor) -> None:
        """All zero."""
        blocks = -(-parameter.numel() // BLOCK)
        zero = int(_shares(self.signed).abs().argmin())
        state[self.name] = torch.full((blocks, BLOCK), zero, dtype=torch.uint8, device=parameter.device)
        state[f"{self.name}_scale"] = torch.zeros(blocks, device=parameter.device)

    def read(self, state: dict[str, Any], begin: int, end: int) -> Tensor:
        """float32 (N,): the numbers from `begin`, a multiple of the block, to `end`."""
        first, last = begin // BLOCK, -(-end // BLOCK)
        shares, scale_K = _shares(self.signed).to(state[self.name].device), state[f"{self.name}_scale"][first:last]
        return (shares[state[self.name][first:last].int()] * scale_K[:, None]).flatten()[: end - begin]

    def write(self, state: dict[str, Any], begin: int, values_N: Tensor) -> None:
        """Remember the numbers from `begin` on."""
        first, blocks = begin // BLOCK, -(-len(values_N) // BLOCK)
        values_KX = torch.nn.functional.pad(values_N, (0, blocks * BLOCK - len(values_N))).view(blocks, BLOCK)
        scale_K = values_KX.abs().amax(dim=1)
        shares = _shares(self.signed).to(values_N.device)
        between = (shares[1:] + shares[:-1]) / 2
        codes_KX = torch.bucketize(values_KX / scale_K.clamp(min=1e-38)[:, None], between, out_int32=True)
        state[self.name][first : first + blocks] = codes_KX.to(torch.uint8)
        state[f"{self.name}_scale"][first : first + blocks] = scale_K


class AdamW8bit(torch.optim.Optimizer):
    """As `torch.optim.AdamW`, with both moments in 8 bits."""

    MOMENTS = (Memory8bit("exp_avg", signed=True), Memory8bit("exp_avg_sq", signed=False))

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        """Args as in `torch.optim.AdamW`."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            for moment in self.MOMENTS:
                moment.begin(state, parameter)
        state["step"] += 1
        step = float(state["step"])
        size, root = group["lr"] / (1 - beta1**step), (1 - beta2**step) ** 0.5
        numbers_N, gradient_N = parameter.view(-1), parameter.grad.reshape(-1)  # pyrefly: ignore[missing-attribute]
        numbers_N.mul_(1 - group["lr"] * group["weight_decay"])
        for begin, end in pieces(len(numbers_N)):
            g_N = gradient_N[begin:end].float()
            first, second = (moment.read(state, begin, end) for moment in self.MOMENTS)
            first.lerp_(g_N, 1 - beta1)
            second.mul_(beta2).addcmul_(g_N, g_N, value=1 - beta2)
            for moment, values_N in zip(self.MOMENTS, (first, second), strict=True):
                moment.write(state, begin, values_N)
            change_N = first.mul_(-size).div_(second.sqrt_().div_(root).add_(group["eps"]))
            numbers_N[begin:end].add_(change_N.to(numbers_N.dtype))


def pieces(count: int) -> Iterator[tuple[int, int]]:
    """Where pieces of so many numbers begin and end."""
    for begin in range(0, count, PIECE):
        yield begin, min(begin + PIECE, count)


@cache
def _shares(signed: bool) -> Tensor:
    """The 256 shares that codes stand for, rising."""
    return torch.tensor(_library().create_dynamic_map(signed=signed))


def _library() -> Any:
    """Torchao's functions, without what importing it says about GPU kernels that are not there.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("torchao") is None:
        raise ConfigError(
            "train.optimizer_state: 8bit needs torchao, not installed here: pip install 'sfumato[quantize]'"
        )
    muted = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.optim import quant_utils
    finally:
        logging.disable(muted)
    return quant_utils
