"""Structured pruning: what matters least is cut out, and an ordinary smaller network remains.

Every layer keeps as many heads (with grouped keys: whole groups) and units as the others, the most important of its
own. Heads keep their size.

Shape letters: R rows of text, Y layers, X a layer's heads, groups or units.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.compress.calibration import Calibration
from sfumato.compress.importance import Importance, Progress
from sfumato.compress.ours import ours
from sfumato.compress.shape import STEP, Shape, candidates
from sfumato.model.bundle import Bundle, build_network


def pruned(bundle: Bundle, importance: Importance, shape: Shape) -> Bundle:
    """What is left of a bundle when only the most important layers, heads and units stay.

    Raises:
        ConfigError: a shape that the network does not contain, or one that cannot be compressed.
    """
    whole, old = ours(bundle), bundle.config.model
    config = replace(bundle.config, model=shape.config(old))
    network = build_network(config).to(whole.final_norm)
    layers = _best(importance.layers_RY, shape.layers)
    group = old.heads // (old.kv_heads or old.heads)
    state = {name: w for name, w in whole.state_dict().items() if not name.startswith("blocks.")}
    for new, layer in enumerate(layers.tolist()):
        groups = _best(importance.heads[layer], shape.heads // group)
        units = _best(importance.units[layer], shape.mlp_width)
        kept = _Kept(_places(groups, group * old.head_size), _places(groups, old.head_size), units)
        block = whole.blocks[layer].state_dict()
        state |= {f"blocks.{new}.{name}": w for name, w in kept.of(block).items()}
    network.load_state_dict(state)
    return replace(bundle, config=config, denoiser=network.eval().requires_grad_(False), adapter=None)


def best_shape(
    bundle: Bundle,
    importance: Importance,
    calibration: Calibration,
    share: float,
    progress: Progress | None = None,
    *,
    step: int = STEP,
) -> Shape:
    """Of the balanced shapes with this share of the parameters, the one with the lowest bound before any healing.

    MLP widths are multiples of `step`.

    Raises:
        ConfigError: no network is so small.
    """
    shapes = candidates(bundle.config.model, share, step)
    if len(shapes) == 1:
        return shapes[0]
    nats: dict[Shape, float] = {}
    for shape in shapes:
        nats[shape] = calibration.total(pruned(bundle, importance, shape).denoiser)
        if progress:
            progress(len(nats), len(shapes))
    return min(shapes, key=nats.__getitem__)


@dataclass(frozen=True)
class _Kept:
    """Which rows, or columns, of a layer's matrices stay."""

    query: Tensor
    key: Tensor
    unit: Tensor

    def of(self, block: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The smaller tensors of a layer."""
        rows = {
            **dict.fromkeys(("attention.query",), self.query),
            **dict.fromkeys(("attention.key", "attention.value"), self.key),
            **dict.fromkeys(("gate", "up"), self.unit),
        }
        columns = {"attention.out.weight": self.query, "down.weight": self.unit}
        result = {}
        for name, tensor in block.items():
            if name in columns:
                tensor = tensor[:, columns[name]]
            elif (matrix := name.rpartition(".")[0]) in rows:  # its weight or its bias
                tensor = tensor[rows[matrix]]
            result[name] = tensor
        return result


def _best(importance_RX: Tensor, count: int) -> Tensor:
    """The most important of them on average, in their order."""
    return importance_RX.mean(dim=0).argsort(descending=True, stable=True)[:count].sort().values


def _places(chosen: Tensor, size: int) -> Tensor:
    """The numbers that belong to chosen heads of this size."""
    return (chosen[:, None] * size + torch.arange(size)).flatten()
