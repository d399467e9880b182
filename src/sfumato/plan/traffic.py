"""Bytes that a process sends in an optimiser step, and the time that takes.

With P parameters, L of them in layers, gathered in B bytes as the others are in 4, M in matrices that Muon updates, W
processes of which S share a copy of the weights, R = W / S copies, and A forwards in a step:

    all-reduce              of the gradients, S = 1: once        2 (R - 1) / R  4 P
                            of those that are shared: A times    2 (R - 1) / R  4 P / S  A
    all-gather, forward     of the weights                       (S - 1) / S  (L B + 4 (P - L))  A
    all-gather, backward    of the layers again                  (S - 1) / S  L B  A
    reduce-scatter          of the gradients                     (S - 1) / S  4 P  A
    exchange                Muon's matrices, there and back      2 (S - 1) / S  M B / S

These are what rings send, and the least that is possible for what each process must learn (Patarasuk and Yuan 2009). As
many bytes are received at once. Gloo has no reduce-scatter of its own and does an all-reduce, twice the bytes. What
else a step says, a loss and a norm, is not worth counting.

Sources: Rajbhandari et al. 2019 (ZeRO, 1910.02054, section 7); Zhao et al. 2023 (FSDP, 2304.11277).
"""

from dataclasses import dataclass

from sfumato.plan.cluster import Cluster, Share

Parts = dict[str, float]
"""Bytes by what they are for."""


@dataclass(frozen=True)
class Weights:
    """What is sent."""

    layers: int
    """Parameters of all layers."""
    others: int
    """Those of the tables, and of what else is outside the layers."""
    matrices: int = 0
    """Parameters that Muon updates."""
    precision: float = 2
    """Bytes of a number in the products, which layers are gathered in."""

    @property
    def all(self) -> int:
        """Parameters."""
        return self.layers + self.others


EXACT = 4
"""Bytes of a gradient when it is added up, and of a weight outside the layers."""


def sent(weights: Weights, share: Share, backend: str = "nccl") -> Parts:
    """Bytes that each process sends in a step.

    Args:
        weights: their number and precision.
        share: who holds what.
        backend: nccl, or gloo, whose reduce-scatter is dearer.
    """
    ring = (share.shard - 1) / share.shard
    gathered = weights.layers * weights.precision + weights.others * EXACT
    between = 2 * (share.replicas - 1) / share.replicas
    times, scatter = share.accumulate, 2 if backend == "gloo" else 1
    return {
        "all-reduce": between * EXACT * weights.all / share.shard * (times if share.shard > 1 else 1),
        "all-gather, forward": times * ring * gathered,
        "all-gather, backward": times * ring * weights.layers * weights.precision,
        "reduce-scatter": times * ring * weights.all * EXACT * scatter,
        "exchange": 2 * ring * weights.matrices * weights.precision / share.shard,
    }


def seconds(parts: Parts, share: Share, cluster: Cluster) -> float:
    """The time that those bytes take on their slowest links, one after the other."""
    within, across = cluster.rate(share.shard), cluster.rate(share.replicas, apart=share.shard)
    return sum(size / (across if name == "all-reduce" else within) for name, size in parts.items())
