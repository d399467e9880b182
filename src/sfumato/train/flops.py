"""Floating-point operations of a forward and of a training step, counted from the sizes of our transformer.

A product of (n, a) with (a, b) is 2 n a b; sums, norms, softmax and look-ups are not counted, as is the custom. With
Q places run, of which N are scored, Y layers, D the width, H = heads x head width, K = key heads x head width, M the
MLP width, V the vocabulary and A the pairs of places of which attention makes a score:

    layers     2 Q D (H + 2 K) + 2 Q D (H + 3 M) each; after its attention the last one has N places for Q
    attention  4 A H each: the scores, and the values that they gather
    readout    2 N D V
    entry      2 Q D latent, 4 Q D^2 with time conditioning, 2 Q D with a gap head
    process    2 N V latent for what a latent says itself, and as much for the mean embedding of the bound

A backward pass is twice that: the gradient of each factor. Two counts differ, and both are useful:

    model      what the method needs. A: the pairs that see each other; N: the places that are scored on average.
               What utilisation (MFU) is measured with, so that nobody gains by wasting.
    hardware   what our code makes the device do. A: all pairs of a row, since a mask is added to the scores (not in the
               tiles of FlexAttention); N: with its padding; scores made again in the backward pass of a fused
               attention; layers run again by checkpointing, all but their last product; Muon's iteration.

Rows are counted as one document each, all of it editable. Source: Chowdhery et al. 2022 (PaLM, 2204.02311, appendix B:
MFU); Hoffmann et al. 2022 (2203.15556, appendix F: the parts); Kaplan et al. 2020 (2001.08361, section 2.1: 6 N D).
"""

from dataclasses import dataclass, replace

from torch import nn

from sfumato.config import ModelConfig, Recipe
from sfumato.model.bundle import BundleConfig, without_weights
from sfumato.model.layout import layout_named
from sfumato.model.transformer import Transformer
from sfumato.process import Process
from sfumato.train.devices import peak_flops
from sfumato.train.run import device_of

Parts = dict[str, float]
"""FLOPs by what they are for."""
ITERATIONS = 5  # of Muon


@dataclass(frozen=True)
class Load:
    """What a network is run on at once."""

    rows: int = 1
    length: int = 1024
    layout: str = "full"
    scored: float | None = None
    """Places whose logits are made, of all rows; None = all."""
    seen: bool = True
    """Of attention, count only pairs that see each other; else all of a row."""

    @property
    def places(self) -> int:
        """Places run: training in blocks runs the noised text and its clean copy."""
        return self.rows * self.length * (2 if self.layout == "block" else 1)

    @property
    def read(self) -> float:
        """Places whose logits are made."""
        return self.rows * self.length if self.scored is None else self.scored

    def pairs(self, block: int) -> float:
        """Pairs of places of which attention makes a score."""
        length = self.length
        if not self.seen or self.layout == "full":
            return self.places**2 / self.rows
        if self.layout == "causal":
            return self.rows * length * (length + 1) / 2
        # Block i of n: the noised one sees itself and i clean ones, its clean copy i + 1: b^2 n (n + 1) in all.
        return self.rows * length * (length + block)


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of an optimiser step."""

    model: float
    """What the method needs."""
    hardware: float
    """What our code makes the device do."""


def forward(model: ModelConfig, load: Load, *, latent_loss: int = 0) -> Parts:
    """FLOPs of one forward.

    Args:
        model: the network.
        load: what it is run on.
        latent_loss: products of all scored places with all embeddings that a gaussian process makes.
    """
    places, read = load.places, load.read
    width, heads, keys, _ = sizes(model)
    before, after = width * (heads + 2 * keys), width * (heads + 3 * model.mlp_width)
    # A network with a gap head reads all places, so its last layer runs all of them.
    last = places if model.gap_head else read
    latent = model.latent * (2 if model.self_conditioning else 1)
    entry = width * latent + (2 * width**2 if model.time_conditioning else 0) + (width if model.gap_head else 0)
    return {
        "layers": 2.0 * (model.layers * places * before + ((model.layers - 1) * places + last) * after),
        "attention": 4.0 * model.layers * load.pairs(model.block) * heads,
        "readout": 2.0 * read * width * model.vocab_size,
        "entry": 2.0 * places * entry,
        "process": 2.0 * latent_loss * read * model.vocab_size * model.latent,
    }


def training(
    model: ModelConfig, load: Load, *, checkpointing: bool = False, fused: bool = False, latent_loss: int = 0
) -> Parts:
    """FLOPs of a forward and its backward.

    Args:
        model: the network.
        load: what it is run on.
        checkpointing: layers are run again for the backward pass.
        fused: attention makes its scores again in the backward pass, instead of keeping them.
        latent_loss: as in `forward`.
    """
    once = forward(model, load, latent_loss=latent_loss)
    parts = {name: 3 * flops for name, flops in once.items()}
    if model.time_conditioning:  # what is made of t alone needs no gradient
        parts["entry"] -= 2.0 * load.places * model.width**2
    if fused:
        parts["attention"] += once["attention"] / 2
    if checkpointing:
        last = load.places if model.gap_head else load.read
        down = 2.0 * ((model.layers - 1) * load.places + last) * model.width * model.mlp_width
        parts["recomputed"] = once["layers"] + once["attention"] - down
    if model.self_conditioning:  # half of the steps first ask the network for a prediction
        guess = forward(model, load, latent_loss=2)
        parts["prediction"] = sum(guess.values()) / 2
    return parts


def step_flops(recipe: Recipe, config: BundleConfig, process: Process, device: str) -> StepFlops:
    """FLOPs of an optimiser step of `sfumato train` without adapters, on all its processes together.

    Args:
        recipe: how it is trained.
        config: the model, which is a network of ours.
        process: what is scored.
        device: the kind of device, such as cpu or cuda.
    """
    train, model, layout = recipe.train, config.model, config.layout
    groups = model.context // (model.smallest_block or model.block) if model.block else 1
    products = latent_products(recipe)
    needed = Load(train.batch, model.context, layout, train.batch * model.context * scored_share(process))
    tiled = layout_named(layout, model.block).two_streams and device == "cuda"
    padded = process.capacity(train.batch, model.context, groups)
    run = replace(needed, scored=padded, seen=tiled)
    model_flops = sum(training(model, needed, latent_loss=products).values())
    how = {"checkpointing": train.checkpointing, "fused": True}
    hardware_flops = sum(training(model, run, latent_loss=products, **how).values())
    update = muon(model) if train.optimizer == "muon" else 0.0
    return StepFlops(train.accumulate * model_flops, train.accumulate * hardware_flops + update)


class Speed:
    """From tokens/s of a run its FLOP/s, and their share of what its devices can do."""

    def __init__(self, recipe: Recipe, config: BundleConfig, process: Process, processes: int = 1):
        """Everything that stays the same from step to step.

        Args:
            recipe: a resolved one.
            config: the model.
            process: what is scored.
            processes: how many train together, each on a device of its own.
        """
        device, dtype = device_of(recipe)
        self.per_token = None  # of a library's network, which is unknown, and of adapters, which do less than this
        if config.foreign is None and not recipe.lora.rank:
            self.per_token = flops_per_token(
                config.model, config.layout, scored_share(process), latent_loss=latent_products(recipe)
            )
        self.peak = 1e12 * recipe.train.peak or peak_flops(device, dtype)
        self.processes = processes

    def of(self, tokens_per_second: float) -> dict[str, float | None]:
        """`flops`, model FLOP/s of all processes together, and `mfu`; None where they are unknown."""
        if self.per_token is None:
            return {"flops": None, "mfu": None}
        flops = tokens_per_second * self.per_token
        mfu = flops / (self.peak * self.processes) if self.peak else None
        return {"flops": float(f"{flops:.4g}"), "mfu": None if mfu is None else round(mfu, 4)}


def scored_share(process: Process) -> float:
    """The share of the places that is scored on average, all being editable."""
    rows, length = 2**40, 2**10  # so many that the capacity's margin for chance is nothing
    return process.capacity(rows, length, 0) / (rows * length)


def latent_products(recipe: Recipe) -> int:
    """Products of all scored places with all embeddings that a process makes, which noises embeddings."""
    return (2 if recipe.process.objective == "elbo" else 1) if recipe.model.latent else 0


def flops_per_token(model: ModelConfig, layout: str = "full", scored: float = 1.0, *, latent_loss: int = 0) -> float:
    """Model FLOPs of training, a token of text, in rows as long as the context.

    Args:
        model: the network.
        layout: full, causal or block.
        scored: the share of the places that is scored.
        latent_loss: as in `forward`.
    """
    rows = Load(1, model.context, layout, model.context * scored)
    return sum(training(model, rows, latent_loss=latent_loss).values()) / model.context


def classical(parameters: int, tokens: float) -> float:
    """6 N D: the rule of thumb, all places scored and attention left out.

    Args:
        parameters: N, of which those of an embedding that is no readout are no work.
        tokens: D.
    """
    return 6.0 * parameters * tokens


def muon(model: ModelConfig) -> float:
    """FLOPs of Muon's iteration over all matrices: 2 m^2 n + 2 m^3 + 2 m^2 n each time, m being the shorter side."""
    with without_weights():
        network = Transformer(model)
    inner = [part.weight for name, part in network.named_modules() if isinstance(part, nn.Linear) and name not in _ENDS]
    shapes = [sorted(weight.shape) for weight in inner]
    return sum(2.0 * ITERATIONS * (2 * short**2 * long + short**3) for short, long in shapes)


_ENDS = ("head", "gap")  # matrices that AdamW updates


def sizes(model: ModelConfig) -> tuple[int, int, int, int]:
    """D, H, K and M: the widths of the network, of its queries, of its keys and of its MLP."""
    heads, keys = model.heads * model.head_size, (model.kv_heads or model.heads) * model.head_size
    return model.width, heads, keys, model.mlp_width
