"""Bytes that a process sends in an optimiser step, and the time that takes.

With P parameters of B bytes as they are gathered and G as gradients are, W processes of which S share a copy of the
weights, R = W / S copies, and A forwards in a step:

    S = 1      all-reduce of the gradients                       2 (W - 1) / W  P G
    S > 1      all-gather for the forward, A times               A (S - 1) / S  P B
               all-gather of the layers for the backward         A (S - 1) / S  (P of layers) B
               reduce-scatter of the gradients                   A (S - 1) / S  P G
    1 < S < W  all-reduce of the shards' gradients, once         2 (R - 1) / R  P G / S

These are what rings send, and the least that is possible for what each process must learn (Patarasuk and Yuan 2009). As
many bytes are received at once. Gloo has no reduce-scatter of its own and does an all-reduce, twice the bytes.

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
    """Those of the tables and of what stands outside the layers, which stay gathered until the backward pass is over."""
    gathered: int = 2
    """Bytes a parameter when it is gathered: the precision of the products."""
    reduced: int = 4
    """Bytes a gradient when it is added up."""

    @property
    def all(self) -> int:
        """Parameters."""
        return self.layers + self.others


def sent(weights: Weights, share: Share, backend: str = "nccl") -> Parts:
    """Bytes that each process sends in a step; nothing else of a step is worth counting.

    Args:
        weights: their number and precisions.
        share: who holds what.
        backend: nccl, or gloo, whose reduce-scatter is dearer.
    """
    ring = (share.shard - 1) / share.shard
    between = 2 * (share.replicas - 1) / share.replicas
    scatter = 2 if backend == "gloo" else 1
    return {
        "all-gather, forward": share.accumulate * ring * weights.all * weights.gathered,
        "all-gather, backward": share.accumulate * ring * weights.layers * weights.gathered,
        "reduce-scatter": scatter * share.accumulate * ring * weights.all * weights.reduced,
        "all-reduce": between * weights.all * weights.reduced / share.shard,
    }


def seconds(parts: Parts, share: Share, cluster: Cluster) -> float:
    """The time that those bytes take on their slowest links, one after the other."""
    within, across = cluster.rate(share.shard), cluster.rate(share.replicas, apart=share.shard)
    return sum(size / (across if name == "all-reduce" else within) for name, size in parts.items())
