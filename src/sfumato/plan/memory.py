"""Memory that a training run takes of each device: the formulas of `compress.fits`, divided among its processes.

With S processes that share a copy of the weights, and W = those of all P parameters in the precision of the products:

    weights, gradients, optimiser, average    what one process would need, / S
    gathered    S > 1: two layers, of which one is being fetched, and what stands outside the layers; W of that
    scattered   S > 1: the gradients of those, before they are added up
    buckets     S = 1 and more than one process: 4 P, gradients on their way
    casts       S = 1: W in bfloat16, which autocast makes of the weights; with S > 1 they are gathered so
    activations, logits    those of the process's own rows
"""

from sfumato.compress.fits import FLOAT, Sizes, Work, training
from sfumato.config import ModelConfig, Recipe
from sfumato.plan.cluster import Share

Parts = dict[str, float]
"""Bytes by what they are for."""


def per_device(recipe: Recipe, model: ModelConfig, share: Share, dtype: str) -> Parts:
    """Bytes that each process needs.

    Args:
        recipe: how it is trained.
        model: the network, its vocabulary known.
        share: what a process works on.
        dtype: of the products: float32 or bfloat16.
    """
    train, sizes = recipe.train, Sizes.of(model)
    parts = training(
        model,
        Work(share.batch, model.context, bool(model.block), dtype),
        optimizer=train.optimizer,
        small=train.optimizer_state == "8bit",
        average=train.ema > 0,
        checkpointing=train.checkpointing,
    )
    parts |= {name: parts[name] / share.shard for name in ("weights", "gradients", "optimiser", "average")}
    held = 2 * layer_parameters(sizes, model) + sizes.tables
    if share.shard > 1:
        parts["gathered"] = FLOAT[dtype] * held
        parts["scattered"] = 4.0 * held
    elif dtype == "bfloat16":
        parts["casts"] = 2.0 * (sizes.matrices + sizes.tables)
    if share.shard == 1 and share.processes > 1:
        parts["buckets"] = 4.0 * sizes.all
    return parts


def layer_parameters(sizes: Sizes, model: ModelConfig) -> float:
    """Parameters of one layer, its gains among them."""
    return sizes.matrices / model.layers


def checkpoint_bytes(recipe: Recipe, model: ModelConfig) -> float:
    """Size of a checkpoint: weights, their average and what the optimisers remember."""
    train = recipe.train
    small = train.optimizer_state == "8bit"
    parts = training(model, Work(), optimizer=train.optimizer, small=small, average=train.ema > 0)
    return parts["weights"] + parts["average"] + parts["optimiser"]
