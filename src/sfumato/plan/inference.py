"""What writing text with a model needs and can reach at best, on one device.

A forward reads all weights and all keys that its rows have, and it computes: neither is faster than its rate.

    seconds of a forward    max( (weights + rows x keys) / bandwidth,  FLOPs / peak )
    tokens/s                rows x tokens decided in a forward / seconds

How many tokens a forward decides is a matter of the sampler and of quality (`sfumato sweep`); a model that writes left
to right decides one. Without blocks there are no keys to keep exactly, and every forward runs the whole text.
"""

from dataclasses import dataclass

from sfumato.compress.fits import FLOAT, ROOM, Sizes, Work, use
from sfumato.config import ModelConfig
from sfumato.train.devices import Device
from sfumato.train.flops import Load, forward


@dataclass(frozen=True)
class Writing:
    """One way to write, at best."""

    name: str
    run: int
    """Places of a row that a forward runs."""
    decided: float
    """Tokens of a row that it decides."""
    rows: int
    memory: float
    """Bytes of weights, keys and activations."""
    seconds: float
    """Of a forward."""
    tokens_per_second: float


def ways(model: ModelConfig, device: Device, decided: float, block: int = 32) -> list[Writing]:
    """Left to right, in blocks and without: one row, and as many as the device has room for.

    Args:
        model: the network; its texts are as long as the context.
        device: where.
        decided: tokens that a forward of a diffusion model decides.
        block: places run at once with a cache.
    """
    found = []
    for name, run, tokens, cached in (
        ("left to right", 1, 1.0, True),
        (f"blocks of {block}", block, decided, True),
        ("without blocks", model.context, decided, False),
    ):
        most = _rows(model, device, run, cached)
        found += [_writing(model, device, name, run, tokens, rows, cached) for rows in sorted({1, most}) if most]
    return found


def keys_per_token(model: ModelConfig, dtype: str = "bfloat16") -> float:
    """Bytes of keys and values that a cached token takes."""
    heads = model.kv_heads or model.heads
    return 2 * model.layers * heads * model.head_size * FLOAT[dtype]


def _memory(model: ModelConfig, rows: int, run: int, cached: bool) -> float:
    parts = use(model, Work(rows, run))
    keys = rows * model.context * keys_per_token(model) if cached else 0.0
    return parts["weights"] + parts["activations"] + keys


def _rows(model: ModelConfig, device: Device, run: int, cached: bool) -> int:
    """How many rows there is room for."""
    empty = _memory(model, 0, run, cached)
    return max(0, int((ROOM * device.memory - empty) / (_memory(model, 1, run, cached) - empty)))


def _writing(
    model: ModelConfig, device: Device, name: str, run: int, decided: float, rows: int, cached: bool
) -> Writing:
    weights, keys = FLOAT["bfloat16"] * Sizes.of(model).all, model.context * keys_per_token(model) if cached else 0.0
    read = rows * max(1.0, run / 2)  # a place that is decided is not read any more: half of them, on the way
    flops = sum(forward(model, Load(rows, run, scored=read)).values())
    if cached:  # each place also looks at the keys before it
        heads = model.heads * model.head_size
        flops += 4.0 * model.layers * heads * rows * run * model.context
    seconds = max((weights + rows * keys) / device.bandwidth, flops / device.flops)
    memory = _memory(model, rows, run, cached)
    return Writing(name, run, decided, rows, memory, seconds, rows * decided / seconds)
