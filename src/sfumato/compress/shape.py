"""How much of a network is kept: so many layers, heads and units."""

from dataclasses import dataclass, replace

from sfumato.config import ConfigError, ModelConfig
from sfumato.model.bundle import without_weights
from sfumato.model.transformer import Transformer

STEP = 8  # MLP widths are multiples of it, as fast kernels want them
_PARTS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)  # of layers and heads, that are tried


@dataclass(frozen=True)
class Shape:
    """How much of a network is kept."""

    layers: int
    heads: int
    mlp_width: int

    @classmethod
    def of(cls, model: ModelConfig) -> "Shape":
        """Of a network as it is."""
        return cls(model.layers, model.heads, model.mlp_width)

    def config(self, model: ModelConfig) -> ModelConfig:
        """The network that is left of `model`.

        Raises:
            ConfigError: more than there is, or heads that are no whole groups.
        """
        for name in ("layers", "heads", "mlp_width"):
            got, most = getattr(self, name), getattr(model, name)
            if not 1 <= got <= most:
                raise ConfigError(f"{name}: got {got}, expected 1 to {most}, which the model has")
        group = model.heads // (model.kv_heads or model.heads)
        if self.heads % group:
            raise ConfigError(
                f"heads: got {self.heads}, expected a multiple of {group}, since so many share their keys"
            )
        return replace(
            model,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.heads // group if model.kv_heads else 0,
            head_width=model.head_width if self.heads == model.heads else model.head_size,
            mlp_width=self.mlp_width,
        )


def num_parameters(model: ModelConfig) -> int:
    """How many numbers such a network learns; nothing is allocated."""
    with without_weights():
        return Transformer(model).num_parameters()


def candidates(model: ModelConfig, share: float, step: int = STEP) -> list[Shape]:
    """Shapes with at most this share of a network's parameters that take from layers, heads and units alike.

    None keeps more than twice as much of one as of another; the MLP is as wide as the others leave room for, in
    multiples of `step`.

    Raises:
        ConfigError: no network is so small, since embeddings are not pruned.
    """
    most = num_parameters(model) * share
    group = model.heads // (model.kv_heads or model.heads)
    layers = sorted({max(1, round(model.layers * part)) for part in _PARTS}, reverse=True)
    heads = sorted({max(group, round(model.heads * part / group) * group) for part in _PARTS}, reverse=True)
    found = []
    for h in heads:
        (outside, layer), (_, wider) = (_parts(model, h, width) for width in (1, 2))
        for n in layers:
            width = min(model.mlp_width, 1 + int(((most - outside) / n - layer) // (wider - layer)))
            if width >= 1:
                found.append(Shape(n, h, width // step * step or width))
    if not found:
        outside, layer = _parts(model, min(heads), 1)
        least = (outside + min(layers) * layer) / num_parameters(model)
        raise ConfigError(f"parameters: got {share:g}, expected more than {least:.2f}: embeddings are not pruned")

    def tilt(shape: Shape) -> float:
        kept = shape.layers / model.layers, shape.heads / model.heads, shape.mlp_width / model.mlp_width
        return max(kept) / min(kept)

    return [shape for shape in found if tilt(shape) <= 2] or [min(found, key=tilt)]


def _parts(model: ModelConfig, heads: int, width: int) -> tuple[int, int]:
    """Parameters outside of the layers, and in each of them, with so many heads and units."""
    one, two = (num_parameters(replace(Shape(1, heads, width).config(model), layers=layers)) for layers in (1, 2))
    return 2 * one - two, two - one
