"""The layout of a network that is learning to look ahead: causal at first, and in the end what it is annealed to.

Source: Gong et al. 2024 (DiffuLLaMA, 2410.17891, section 3.2: attention mask annealing).
"""

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Where
from sfumato.model.layout import Layout


class Annealed:
    """A layout in which what comes later is seen by chance: each pair of positions for itself."""

    def __init__(self, layout: Layout, share: float, seed: int):
        """A stage on the way.

        Args:
            layout: what it becomes; nothing is seen that this layout hides.
            share: of the pairs with a later position, how many are seen.
            seed: which ones; every copy of a position and every row of a batch draws alike.
        """
        self.layout, self.share, self.seed = layout, share, seed
        self.name, self.two_streams = layout.name, layout.two_streams

    def sees(self, query: Where, key: Where) -> Tensor:
        """Not later, or drawn; and visible in the layout that it becomes."""
        drawn = rng.uniform(self.seed, query.position_BQ, key.position_BQ) < self.share
        seen = drawn | (query.position_BQ >= key.position_BQ)
        allowed = self.layout.sees(query, key)
        return seen if allowed is None else torch.logical_and(seen, allowed)
