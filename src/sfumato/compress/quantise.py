"""Quantisation of a bundle: from its matrices to codes, rounded so that the outputs change least.

With calibration the layers are rounded to 4 bits from the first to the last. Each sees what the layers before it,
rounded already, make of text at all noise levels, and of what it sees the rounding of a column is made up for by the
columns after it (`rounding.put_corrected`). Without, each number goes to its nearest code.

Shape letters: I inputs of a matrix, N positions.
"""

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from sfumato.compress.calibration import Calibration
from sfumato.compress.ours import ours
from sfumato.compress.rounding import put_corrected, put_nearest
from sfumato.config import ConfigError, ModelConfig
from sfumato.model.bundle import Bundle
from sfumato.model.quantised import STORED, Quantised, has_float8, like
from sfumato.model.transformer import Transformer

INSIDE = ("attention.query", "attention.key", "attention.value", "attention.out", "gate", "up", "down")
Progress = Callable[[int, int], None]  # layers done, layers


def check_kind(kind: str, device: torch.device) -> None:
    """ConfigError where a kind is none, or the device cannot compute with it."""
    if kind not in STORED:
        raise ConfigError(f"quantise: got {kind!r}, expected one of {', '.join(STORED)}")
    if kind == "float8" and not has_float8(device):
        raise ConfigError(
            f"quantise: float8 needs a GPU that computes with it (compute capability 8.9 or newer), got {device.type}; "
            "use int8, which has as many bits, or dynamic"
        )


def quantised(
    bundle: Bundle,
    kind: str,
    *,
    group: int = 32,
    keep: Iterable[str] = (),
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """A bundle with the matrices of its layers and its tables in fewer bits; the original is left as it is.

    Tables (embedding and head) get 8 bits also where the matrices get 4.

    Args:
        bundle: with our transformer.
        kind: int8, int4, dynamic or float8.
        group: int4: numbers that share a scale; it must divide the width, the MLP width and the width of all heads.
        keep: what stays in full precision: parts of the names of matrices, such as blocks.0. or down.
        calibration: text to round int4 for; None = to the nearest. Eight bits lose so little that it is not worth it.
        progress: told the layers done and their number.

    Raises:
        ConfigError: a bundle that cannot be compressed, or groups that do not fit.
    """
    network = copy.deepcopy(ours(bundle))
    left = tuple(keep)
    kinds: dict[str, str] = {}
    layers: list[str] = ["", *(f"blocks.{i}." for i in range(len(network.blocks)))]
    for done, layer in enumerate(layers):
        names = _names(network, layer, left)
        grams = _grams(network, names, calibration) if layer and calibration and kind == "int4" else {}
        for name in names:
            own = kind if layer or kind != "int4" else "int8"
            _swap(network, name, own, group, grams.get(name))
            kinds[name] = own
        if progress:
            progress(done + 1, len(layers))
    config = replace(bundle.config, quantised=Quantised(kinds, group))
    return replace(bundle, config=config, denoiser=network.eval().requires_grad_(False), adapter=None)


def check_groups(model: ModelConfig, group: int, keep: Iterable[str] = ()) -> None:
    """ConfigError unless these groups divide the matrices of such a network, which would get 4 bits."""
    with torch.device("meta"):
        network = Transformer(model)
    for name in _names(network, "blocks.0.", tuple(keep)):
        like(network.get_submodule(name), name, "int4", group)


def _names(network: Transformer, layer: str, keep: tuple[str, ...]) -> list[str]:
    """What is quantised of a layer; of what is outside of them for the empty one."""
    names = [layer + n for n in INSIDE] if layer else ["embedding", *(["head"] if network.head is not None else [])]
    return [name for name in names if not any(part in name for part in keep)]


@torch.no_grad()
def _swap(network: Transformer, name: str, kind: str, group: int, gram_II: Tensor | None) -> None:
    """Put a quantised matrix in the place of another."""
    old = network.get_submodule(name)
    assert isinstance(old, (nn.Linear, nn.Embedding))
    new = like(old, name, kind, group)
    if gram_II is None:
        put_nearest(new, old.weight)
    else:
        put_corrected(new, old.weight, gram_II)
    if new.bias is not None:
        new.bias.copy_(old.bias)  # pyrefly: ignore[bad-argument-type]
    place, _, last = name.rpartition(".")
    setattr(network.get_submodule(place), last, new.to(network.final_norm.dtype))


@torch.inference_mode()
def _grams(network: Transformer, names: Iterable[str], calibration: Calibration) -> dict[str, Tensor]:
    """The sum of x x^T, float64 (I, I), over what enters these matrices, once for those that share their input."""
    grams: dict[int, Tensor] = {}
    seen: dict[str, int] = {}  # by which of the inputs
    inputs: dict[int, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            same = next((number for number, x in inputs.items() if x is args[0]), None)
            if same is not None:
                seen[name] = same
                return
            number = seen.setdefault(name, len(grams))
            inputs[number] = args[0]
            x_NI = args[0].flatten(0, -2).double()
            grams[number] = grams[number] + x_NI.T @ x_NI if number in grams else x_NI.T @ x_NI

        return before

    with ExitStack() as stack:
        for name in names:
            handle = network.get_submodule(name).register_forward_pre_hook(watch(name))
            stack.callback(handle.remove)
        for noised, where in calibration.noisings(network):
            inputs.clear()
            calibration.nats(network, noised, where)
    return {name: grams[number] for name, number in seen.items()}
