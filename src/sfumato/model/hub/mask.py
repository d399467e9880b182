"""A mask for models that have none and whose tokens are all taken: one token more, which no file has weights for."""

import torch
from torch import Tensor

from sfumato.model.bundle import BundleConfig

TABLES = ("embedding.weight", "head.weight")
"""Our names of the matrices with a row for each token."""


def smaller(shape: tuple[int, ...], config: BundleConfig) -> tuple[int, ...]:
    """The shape that a table of the tokens may have in a folder whose mask was added; of another tensor its own."""
    rows = config.model.vocab_size
    return (rows - 1, *shape[1:]) if shape[:1] == (rows,) and config.tokens.mask == rows - 1 else shape


def grown(table: Tensor, rows: int) -> Tensor:
    """A table, (rows - 1, ...) or (rows, ...), with all its rows: the mask's is the mean of the others."""
    return table if len(table) == rows else torch.cat((table, table.mean(dim=0, keepdim=True)))
