"""Memory that a training run takes of each device: the formulas of `compress.fits`, divided among its processes.

With S processes that share a copy of the weights, and B bytes of a number in the precision of the products:

    weights, gradients, optimiser, average    what one process alone would need, / S
    gathered      S > 1: B of two layers, one of which is being fetched, and 4 of what stands outside the layers
    scattered     S > 1: their gradients, B of one layer and 4 of it to add up, and 4 of what stands outside
    casts         2 of every matrix that is not gathered in bfloat16, which autocast makes of it
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
    if share.shard > 1:
        layer = sizes.matrices / model.layers
        parts["gathered"] = FLOAT[dtype] * 2 * layer + 4 * sizes.tables
        parts["scattered"] = (FLOAT[dtype] + 4) * layer + 4 * sizes.tables
    if dtype == "bfloat16":
        parts["casts"] = 2.0 * (sizes.tables if share.shard > 1 else sizes.tables + sizes.matrices)
    return parts


def checkpoint_bytes(recipe: Recipe, model: ModelConfig) -> float:
    """Size of a checkpoint: weights, their average and what the optimisers remember."""
    train = recipe.train
    small = train.optimizer_state == "8bit"
    parts = training(model, Work(), optimizer=train.optimizer, small=small, average=train.ema > 0)
    return parts["weights"] + parts["average"] + parts["optimiser"]
