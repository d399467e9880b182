"""How much memory a network needs, used or trained: formulas, which benchmarks/memory.py holds against real runs.

With P parameters of which T are trained, B rows of L tokens, Y layers, D the width, H = heads x head width, K = key
heads x head width, M the MLP width, V the vocabulary, a the bytes of an activation (float32 4, bfloat16 2):

    use        weights      4 P, 2 P in bfloat16; quantised: 1 P, or 1/2 P without the tables, and the scales
               keys         2 Y B L K a: keys and values, where a cache is used
               activations  B L (3 D + 2 H + 2 K + 3 M) a of one layer, and 2 x 4 B V for one logit row of each text
    training   weights      4 P: arithmetic on them is float32
               gradients    4 T
               optimiser    8 T for AdamW, 4 T for matrices with Muon; in 8 bits a quarter, and 4/256 for the scales
               average      4 T; none with train.ema = 0
               update       24 bytes a number of Muon's largest batch of matrices of one shape
               activations  B L Y (4 D + 5 H + 4 K + 4 M) a; with checkpointing 4 B L Y D
               logits       3 x 4 V B L / 2: as they are, as log-probabilities, and their gradients; half are scored
                            (with checkpointing or the activations of one layer, whichever are more)

In the block layout a row is run noised and clean at once, so its L counts double in activations. Not counted: the
interpreter and its libraries, what a kernel uses inside, and buffers that the allocator keeps.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn

from sfumato.config import ModelConfig
from sfumato.model.bundle import without_weights
from sfumato.model.transformer import Transformer
from sfumato.train.moments import BLOCK
from sfumato.train.optimiser import TOGETHER

GIB = 2**30
CARDS = (8, 24, 80)
ROOM = 0.9  # of a card; the rest is for its driver and kernels
SPARE = {"small": True, "checkpointing": True, "average": False}
WAYS: dict[str, dict[str, Any]] = {
    "write, float32": {"dtype": "float32"},
    "write, bfloat16": {"dtype": "bfloat16"},
    "write, int8": {"kind": "int8"},
    "write, int4": {"kind": "int4"},
    "train, AdamW": {"train": {}},
    "train, AdamW 8-bit": {"train": {"small": True}},
    "train, AdamW 8-bit, checkpointing, no average": {"train": SPARE},
    "train, Muon 8-bit, checkpointing, no average": {"train": {"optimizer": "muon", **SPARE}},
    "LoRA of rank 16": {"train": {"rank": 16}},
    "LoRA of rank 16, checkpointing": {"train": {"rank": 16, "checkpointing": True}},
}
"""What people do with a network."""
FLOAT = {"float32": 4.0, "bfloat16": 2.0}
Parts = dict[str, float]
"""Bytes by what they are for."""


@dataclass(frozen=True)
class Sizes:
    """The numbers in a network."""

    tables: int
    """In the embedding and the head."""
    matrices: int
    """In the matrices of all layers."""
    others: int
    """In gains, biases and small heads."""
    ends: int
    """Inputs and outputs of the layers' matrices, added up: times a rank, the numbers of their adapters."""
    rows: int
    """Rows of all matrices and tables, each of which has a scale when it is quantised."""
    together: int
    """In the matrices of one shape, whichever has most: what Muon works out at a time."""

    @classmethod
    @cache
    def of(cls, model: ModelConfig) -> "Sizes":
        """Count; nothing is allocated."""
        with without_weights():
            network = Transformer(model)
        tables = [part.weight for part in (network.embedding, network.head) if part is not None]
        linear = [part.weight for part in network.blocks.modules() if isinstance(part, nn.Linear)]
        in_tables, in_matrices = (sum(weight.numel() for weight in part) for part in (tables, linear))
        others = network.num_parameters() - in_tables - in_matrices
        ends, rows = (sum(sum(w.shape) for w in linear), sum(len(w) for w in [*tables, *linear]))
        alike = Counter(weight.shape for weight in linear)
        together = min(TOGETHER, max(shape.numel() * count for shape, count in alike.items()))
        return cls(in_tables, in_matrices, others, ends, rows, together)

    @property
    def all(self) -> int:
        """Parameters."""
        return self.tables + self.matrices + self.others


@dataclass(frozen=True)
class Work:
    """What a network has to do at once."""

    rows: int = 1
    length: int = 1024
    block: bool = False
    """Trained in blocks: each row noised and clean."""
    dtype: str = "bfloat16"
    """Of the activations."""


def needed(model: ModelConfig, way: str, work: Work) -> float:
    """Bytes that one of the `WAYS` takes."""
    how = WAYS[way]
    work = replace(work, dtype=how.get("dtype", work.dtype))
    found = training(model, work, **how["train"]) if "train" in how else use(model, work, how.get("kind", ""))
    return sum(found.values())


def card_for(size: float) -> int | None:
    """The smallest of the `CARDS`, in GiB, that has room for so many bytes; None where none has."""
    return next((card for card in CARDS if size <= ROOM * card * GIB), None)


def use(model: ModelConfig, work: Work, kind: str = "", group: int = 32) -> Parts:
    """Bytes to write text with a network, by formulas above.

    Args:
        model: the network.
        work: `rows` texts of `length` tokens.
        kind: of quantisation; empty = none, weights are as exact as activations.
        group: of int4.
    """
    sizes, a, places = Sizes.of(model), FLOAT[work.dtype], work.rows * work.length
    heads, keys = _widths(model)
    weights = a * sizes.all
    if kind:
        codes = 0.5 if kind == "int4" else 1.0
        scales = sizes.matrices / group if kind == "int4" else sizes.rows
        weights = sizes.tables + codes * sizes.matrices + a * (sizes.others + scales)
    layer = 3 * model.width + 2 * heads + 2 * keys + 3 * model.mlp_width
    return {
        "weights": weights,
        "keys": 2 * model.layers * places * keys * a,
        "activations": places * layer * a + 8 * work.rows * model.vocab_size,
    }


def training(
    model: ModelConfig,
    work: Work,
    *,
    optimizer: str = "adamw",
    small: bool = False,
    average: bool = True,
    checkpointing: bool = False,
    rank: int = 0,
) -> Parts:
    """Bytes to train a network, by the formulas above.

    Args:
        model: the network.
        work: `rows` is `train.batch`, and `length` the context.
        optimizer: adamw or muon.
        small: `train.optimizer_state` is 8bit.
        average: `train.ema` is not 0.
        checkpointing: `train.checkpointing`.
        rank: of adapters, which alone are trained; 0 = everything is.
    """
    sizes = Sizes.of(model)
    adapters = rank * sizes.ends
    matrices, tables, vectors = (adapters, 0, 0) if rank else (sizes.matrices, sizes.tables, sizes.others)
    moment = 1 + 4 / BLOCK if small else 4
    of_matrices = (1 if optimizer == "muon" else 2) * moment
    places = work.rows * work.length * (2 if work.block else 1)
    a, layer = FLOAT[work.dtype], _layer(model)
    logits = 12.0 * model.vocab_size * work.rows * work.length / 2
    if checkpointing:  # when a layer is computed again, the logits are gone
        activations = places * model.layers * model.width * 4
        logits = max(logits, places * layer * a)
    else:
        activations = places * model.layers * layer * a
    trained = matrices + tables + vectors
    return {
        "weights": 4.0 * (sizes.all + adapters),
        "gradients": 4.0 * trained,
        "optimiser": of_matrices * matrices + 2 * moment * tables + 8.0 * vectors,
        "average": 4.0 * trained if average else 0.0,
        "update": 24.0 * sizes.together if optimizer == "muon" and not rank else 0.0,
        "activations": activations,
        "logits": logits,
    }


def _layer(model: ModelConfig) -> int:
    """Numbers that a layer keeps of a position for the backward pass."""
    heads, keys = _widths(model)
    return 4 * model.width + 5 * heads + 4 * keys + 4 * model.mlp_width


def _widths(model: ModelConfig) -> tuple[int, int]:
    return model.heads * model.head_size, (model.kv_heads or model.heads) * model.head_size
