"""Matrices of 8 or 4 bits: plain tensors that a bundle stores, and modules that compute with them.

A row of a quantised matrix, or each group of numbers in it, is whole numbers times a scale of its own. Scales are
bfloat16 numbers and codes are chosen for them, so that a network may change its precision without changing what it
computes.

    int8      codes of a byte, one scale a row; the product is made in the precision of its inputs
    int4      two codes a byte, a scale for each group of numbers
    dynamic   int8, and the inputs become int8 too, each position with its own scale: an integer product
    float8    4 bits of exponent and 3 of mantissa, one scale a row; on hardware that has them the inputs as well

Our own few lines, since a bundle shall load without another library, and since they are the faster ones on a CPU
(benchmarks/compress.py measures them beside torchao's).

Shape letters: N positions, O outputs, I inputs, G groups in a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.config import ConfigError

STORED = {"int8": torch.int8, "int4": torch.uint8, "dynamic": torch.int8, "float8": torch.int8}  # its bits
GREATEST = {"int8": 127.0, "int4": 7.0, "dynamic": 127.0, "float8": 448.0}
_FEWEST = 17  # rows of an integer product on a GPU


@dataclass(frozen=True)
class Quantised:
    """What config.json says of a quantised bundle."""

    matrices: dict[str, Any]
    """The kind of each quantised matrix by its name, such as {"blocks.0.gate": "int4"}; the others are floating."""
    group: int = 32
    """int4: numbers of a row that share a scale."""

    def __post_init__(self) -> None:
        """Refuse kinds that there are not."""
        for name, kind in self.matrices.items():
            if kind not in STORED:
                raise ConfigError(f"quantised.matrices: {name} is {kind!r}, expected one of {', '.join(STORED)}")
        if self.group < 2 or self.group % 2:
            raise ConfigError(f"quantised.group: expected an even number, got {self.group}")

    @property
    def kinds(self) -> str:
        """For people: which kinds, and how many matrices of each."""
        counts = {kind: list(self.matrices.values()).count(kind) for kind in STORED}
        return ", ".join(f"{kind} ({count} matrices)" for kind, count in counts.items() if count)


class QuantisedMatrix(nn.Module):
    """A matrix in place of an `nn.Linear`."""

    weight: Tensor
    scale: Tensor

    def __init__(self, outputs: int, inputs: int, kind: str, group: int = 0, *, bias: bool = False):
        """Room for the codes.

        Args:
            outputs: rows.
            inputs: columns.
            kind: of `STORED`.
            group: columns that share a scale, a divisor of `inputs`; 0 = all.
            bias: whether one is added, in floating point.
        """
        super().__init__()
        self.outputs, self.inputs, self.kind, self.group = outputs, inputs, kind, group or inputs
        self.register_buffer("weight", torch.zeros(outputs, inputs // (2 if kind == "int4" else 1), dtype=STORED[kind]))
        self.register_buffer("scale", torch.ones(outputs, inputs // self.group, dtype=torch.bfloat16))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The product with inputs (..., I), in their precision: (..., O)."""
        return self.product(x) if self.bias is None else self.product(x) + self.bias

    def product(self, x: Tensor) -> Tensor:
        """The product without a bias."""
        if self.kind == "dynamic":
            return self._integer(x.reshape(-1, self.inputs)).view(*x.shape[:-1], self.outputs)
        if self.kind == "float8" and has_float8(x.device):
            return self._float8(x.reshape(-1, self.inputs)).view(*x.shape[:-1], self.outputs)
        if self.kind == "int8":  # such codes are exact in any precision, and a scale at the end is the cheapest
            return F.linear(x, self.weight.to(x.dtype)) * self.scale.view(-1).to(x.dtype)
        return F.linear(x, self.dense(x.dtype))

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix that it stands for, (O, I)."""
        return self._scaled(self.weight, self.scale, dtype)

    def _scaled(self, codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        if self.kind == "int4":
            codes = unpacked(codes)
        elif self.kind == "float8":
            codes = codes.view(torch.float8_e4m3fn)
        return (codes.to(dtype).view(*scale.shape, self.group) * scale.to(dtype)[..., None]).flatten(-2)

    def _integer(self, x_NI: Tensor) -> Tensor:
        peak_N1 = x_NI.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12)
        codes_NI = (x_NI * (127 / peak_N1)).round().to(torch.int8)
        extra = max(0, _FEWEST - len(codes_NI)) if x_NI.is_cuda else 0
        sums_NO = torch._int_mm(F.pad(codes_NI, (0, 0, 0, extra)), self.weight.t())[: len(codes_NI)]
        return (sums_NO * (peak_N1 / 127) * self.scale.view(-1).float()).to(x_NI.dtype)

    def _float8(self, x_NI: Tensor) -> Tensor:
        peak_N1 = x_NI.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / GREATEST["float8"]
        codes_NI = (x_NI / peak_N1).to(torch.float8_e4m3fn)
        scale_1O = self.scale.view(1, -1).float()
        y_NO = torch._scaled_mm(
            codes_NI, self.weight.view(torch.float8_e4m3fn).t(), peak_N1, scale_1O, out_dtype=torch.bfloat16
        )
        return y_NO.to(x_NI.dtype)

    def num_parameters(self) -> int:
        """Numbers of the matrix; a bias is a parameter like any other."""
        return self.outputs * self.inputs


class QuantisedTable(QuantisedMatrix):
    """A table of embeddings, which may be the readout too."""

    def forward(self, x: Tensor) -> Tensor:
        """The rows of tokens (...), (..., I)."""
        scale = self.scale[x]
        return self._scaled(self.weight[x], scale, scale.dtype)


def packed(codes: Tensor) -> Tensor:
    """Codes from -8 to 7, two a byte: (..., I) -> (..., I / 2)."""
    low, high = (codes + 8).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    return low | high << 4


def unpacked(weight: Tensor) -> Tensor:
    """The inverse of `packed`, as int8."""
    return (torch.stack((weight & 15, weight >> 4), dim=-1).flatten(-2)).to(torch.int8) - 8


def has_float8(device: torch.device) -> bool:
    """Whether products of float8 numbers are faster there."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def replace_matrices(network: nn.Module, quantised: Quantised) -> None:
    """Put quantised matrices, without values yet, in place of those that a bundle stores so.

    Raises:
        ConfigError: the network has no such matrix, or one that no groups divide.
    """
    for name, kind in quantised.matrices.items():
        place, _, last = name.rpartition(".")
        try:
            old, parent = network.get_submodule(name), network.get_submodule(place)
        except AttributeError:
            raise ConfigError(f"quantised.matrices: the network has no matrix {name}") from None
        setattr(parent, last, like(old, name, kind, quantised.group))


def like(old: nn.Module, name: str, kind: str, group: int) -> QuantisedMatrix:
    """A quantised matrix of the shape of another, without values yet.

    Raises:
        ConfigError: it is no matrix, or no groups divide it.
    """
    if not isinstance(old, (nn.Linear, nn.Embedding)):
        raise ConfigError(f"quantised.matrices: {name} is no matrix, but {type(old).__name__}")
    outputs, inputs = old.weight.shape
    if kind == "int4" and inputs % group:
        raise ConfigError(f"quantised.group: {group} does not divide the {inputs} inputs of {name}")
    made = QuantisedTable if isinstance(old, nn.Embedding) else QuantisedMatrix
    bias = getattr(old, "bias", None) is not None
    return made(outputs, inputs, kind, group if kind == "int4" else 0, bias=bias).to(old.weight.device)


def quantised_parameters(network: nn.Module) -> int:
    """How many numbers of a network are quantised."""
    return sum(part.num_parameters() for part in network.modules() if isinstance(part, QuantisedMatrix))
