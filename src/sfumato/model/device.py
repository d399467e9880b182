"""Where to compute, and in which precision: `auto` is settled by measurement, not by a list of machines."""

import time

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """The device for `auto|cpu|cuda|mps`.

    Raises:
        ValueError: the device was named but this machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in available:
        raise ValueError(f"device: got {name!r}, expected auto, cpu, cuda or mps")
    if not available[name]:
        raise ValueError(
            f"device: {name!r} was asked for, but torch {torch.__version__} finds none here; use --device cpu"
        )
    return torch.device(name)


def bookkeeping_device(device: torch.device) -> torch.device:
    """Where noise, canvas and draws live: with the network, or on the CPU where its device has no float64 (mps)."""
    return torch.device("cpu") if device.type == "mps" else device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision for `auto|float32|bfloat16`; auto takes bfloat16 only where a matrix product is faster in it.

    A CPU without bfloat16 units emulates it and can be 100 times slower than in float32.
    """
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise ValueError(f"dtype: got {name!r}, expected auto, float32 or bfloat16")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _seconds(torch.bfloat16, device) < 0.8 * _seconds(torch.float32, device) else torch.float32


def _seconds(dtype: torch.dtype, device: torch.device, size: int = 256) -> float:
    """Best of three small matrix products; a few milliseconds in all, or about 0.1 s where bfloat16 is emulated."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):  # the first one pays for the warm-up and is never the best
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return best
