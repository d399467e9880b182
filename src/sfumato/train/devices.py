"""What devices can do at best, as their makers publish it, for bfloat16 products without sparsity.

Utilisation (MFU) is measured against these rates. A device that is not here has none: nothing is guessed.

Sources: data sheets of NVIDIA (H100, H200, B200 in HGX, GB200, GH200, A100, A10, L4, L40S), its whitepapers on Ampere
GA102 (RTX 3090), Ada (RTX 4090) and RTX Blackwell (RTX 5090), with float32 accumulation; data sheets of AMD (MI300X,
MI325X, MI355X). Where a sheet counts with sparsity, half of that.
"""

import re
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    name: str
    """As people and the command line call it."""
    pattern: str
    """Regular expression that all of torch's name for it matches."""
    flops: float
    """FLOP/s of bfloat16 products."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes/s of its memory."""
    link: float
    """Bytes/s that it sends, and at once receives, to others in its machine."""


NVLINK3, NVLINK4, NVLINK5 = 300e9, 450e9, 900e9
PCIE4, PCIE5 = 32e9, 64e9
DEVICES = (
    Device("h100", r"NVIDIA H100 80GB HBM3", 989.4e12, 80e9, 3.35e12, NVLINK4),
    Device("h100-pcie", r"NVIDIA H100 PCIe", 756e12, 80e9, 2.0e12, PCIE5),
    Device("h100-nvl", r"NVIDIA H100 NVL", 835e12, 94e9, 3.9e12, NVLINK3),
    Device("h200", r"NVIDIA H200", 989.4e12, 141e9, 4.8e12, NVLINK4),
    Device("h200-nvl", r"NVIDIA H200 NVL", 835.5e12, 141e9, 4.8e12, NVLINK4),
    Device("gh200", r"NVIDIA GH200 480GB", 989.4e12, 96e9, 4.0e12, NVLINK4),
    Device("b200", r"NVIDIA B200", 2250e12, 180e9, 7.7e12, NVLINK5),
    Device("gb200", r"NVIDIA GB200", 2500e12, 186e9, 8.0e12, NVLINK5),
    Device("a100", r"NVIDIA A100-SXM4-80GB", 312e12, 80e9, 2.039e12, NVLINK3),
    Device("a100-40gb", r"NVIDIA A100-SXM4-40GB", 312e12, 40e9, 1.555e12, NVLINK3),
    Device("a100-pcie", r"NVIDIA A100 80GB PCIe", 312e12, 80e9, 1.935e12, PCIE4),
    Device("a10", r"NVIDIA A10", 125e12, 24e9, 600e9, PCIE4),
    Device("l4", r"NVIDIA L4", 121e12, 24e9, 300e9, PCIE4),
    Device("l40s", r"NVIDIA L40S", 362.05e12, 48e9, 864e9, PCIE4),
    Device("3090", r"NVIDIA GeForce RTX 3090", 71e12, 24e9, 936e9, PCIE4),
    Device("4090", r"NVIDIA GeForce RTX 4090", 165.2e12, 24e9, 1008e9, PCIE4),
    Device("5090", r"NVIDIA GeForce RTX 5090", 209.5e12, 32e9, 1792e9, PCIE5),
    Device("mi300x", r"AMD Instinct MI300X.*", 1307.4e12, 192e9, 5.3e12, 448e9),
    Device("mi325x", r"AMD Instinct MI325X.*", 1307.4e12, 256e9, 6.0e12, 448e9),
    Device("mi355x", r"AMD Instinct MI355X.*", 2516.6e12, 288e9, 8.0e12, 537e9),
)
"""A part of a card (MIG), a laptop's or another edition has another name, so that it is none of these."""


def device_called(name: str) -> Device | None:
    """The device of that name, ours or torch's."""
    return next((one for one in DEVICES if name.lower() == one.name or re.fullmatch(one.pattern, name)), None)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that the device is sold with; None where nobody has published them, or the precision is another."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    found = device_called(torch.cuda.get_device_name(device))
    return found.flops if found else None


def measured_flops(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.5) -> float:
    """FLOP/s of the best of some square matrix products: what to take where nothing is published.

    Args:
        device: where.
        dtype: of the matrices.
        size: their rows and columns.
        seconds: to spend on it, and at least three products.
    """
    a = torch.ones(size, size, device=device, dtype=dtype)
    best, end, done = float("inf"), time.perf_counter() + seconds, 0
    while done < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start) if done else best  # the first one warms up
        done += 1
    return 2 * size**3 / best
