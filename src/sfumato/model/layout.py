"""Layouts: which position sees which. One rule for training, prefill, denoising and commit. A new layout is one class.

Shape letters: B rows, L row length, Q positions run in this forward, K key positions, N scored positions.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.canvas import Where


class Layout(Protocol):
    """Who sees whom."""

    name: str
    two_streams: bool
    """Whether training runs the noised text and its clean copy side by side."""

    def sees(self, query: Where, key: Where) -> Tensor | None:
        """Bool of the fields' broadcast shape, true where the query may read the key; None = everywhere."""
        ...


def visible(layout: Layout, query: Where, key: Where) -> Tensor | None:
    """bool_BQK, true where the query may read the key; None when every query reads every key.

    Padding (document -1) sees padding, so that no row of the softmax is empty.
    """
    every, new = slice(None), None
    return layout.sees(query.at((every, every, new)), key.at((every, new, every)))


def _same_document(query: Where, key: Where) -> Tensor | None:
    if query.document_BQ is None or key.document_BQ is None:
        return None
    return query.document_BQ == key.document_BQ


def _both(one: Tensor, other: Tensor | None) -> Tensor:
    return one if other is None else torch.logical_and(one, other)


class Full:
    """Everything in the same document."""

    name = "full"
    two_streams = False

    def sees(self, query: Where, key: Where) -> Tensor | None:
        """The document mask."""
        return _same_document(query, key)


class Causal:
    """Everything in the same document that does not come later."""

    name = "causal"
    two_streams = False

    def sees(self, query: Where, key: Where) -> Tensor | None:
        """The document mask and not later."""
        return _both(query.position_BQ >= key.position_BQ, _same_document(query, key))


@dataclass(frozen=True)
class Block:
    """Blocks of a document, each seen whole; earlier ones clean.

    A noised position sees its own noised block and the clean blocks before it; a clean position sees the clean blocks
    up to its own. So a finished block never changes again, and its keys and values can be kept.

    Source: Arriola et al. 2025 (BD3-LM, 2503.09573, figure 2: the mask of one pass).
    """

    size: int = 0
    """Places a block in training and evaluation; rows being decoded bring their own."""
    smallest: int = 0
    """Training draws sizes from this one up by doubling; 0 = `size` alone."""

    name = "block"
    two_streams = True

    def sees(self, query: Where, key: Where) -> Tensor | None:
        """The block mask inside the document."""
        assert query.block_BQ is not None and query.clean_BQ is not None
        assert key.block_BQ is not None and key.clean_BQ is not None
        own = (query.block_BQ == key.block_BQ) & (query.clean_BQ == key.clean_BQ)
        earlier = key.clean_BQ & (key.block_BQ < query.block_BQ)
        return _both(own | earlier, _same_document(query, key))


class Unmasked:
    """A stretch of some layout in which every query happens to see every key: the same, without the cost of a mask."""

    two_streams = False

    def __init__(self, layout: Layout):
        """layout: the one that it is a stretch of."""
        self.name = layout.name

    def sees(self, query: Where, key: Where) -> None:
        """Everything."""


def layout_named(name: str, block: int = 0, smallest: int = 0) -> Layout:
    """The layout that a bundle names, with the size of its blocks; ValueError for an unknown name."""
    layouts: tuple[Layout, ...] = (Full(), Causal(), Block(block, smallest))
    for layout in layouts:
        if layout.name == name:
            return layout
    raise ValueError(f"layout: got {name!r}, expected one of {', '.join(known.name for known in layouts)}")


def numbered(position_BL: Tensor, size_B1: Tensor | int) -> tuple[Tensor, Tensor]:
    """Cut every document of packed rows into blocks of `size` positions, counted from its first.

    Returns:
        block_BL, the number of the block in its document, and group_BL, its number in the row; padding (position -1)
        belongs to the group before it.
    """
    block_BL = position_BL.clamp(min=0) // size_B1
    begins_BL = (position_BL >= 0) & (position_BL % size_B1 == 0)
    return block_BL, (begins_BL.cumsum(dim=1) - 1).clamp(min=0)


def two_streams(
    noised_BL: Tensor, clean_BL: Tensor, where: Where, t_BL: Tensor, read_N: Tensor, index_N: Tensor | None = None
) -> tuple[Tensor, Where, Tensor, Tensor]:
    """One pass over [noised; clean]: the inputs, who they are, their noise levels, and where those to read went.

    Args:
        noised_BL: what the process made of the text; or vectors, (B, L, ...), like `clean_BL`.
        clean_BL: the text.
        where: of one copy; `clean_BQ` is not read.
        t_BL: noise levels of the noised copy.
        read_N: flat positions in B*L.
        index_N: what they predict, where that is another place. The first place of a block is predicted by the last one
            of the block before, which by then is clean: it is read in the clean copy. None = they predict themselves.
    """
    length = where.position_BQ.shape[1]

    def twice(value_BL: Tensor | None) -> Tensor | None:
        return None if value_BL is None else torch.cat((value_BL, value_BL), dim=1)

    clean_BQ = torch.zeros_like(where.position_BQ, dtype=torch.bool)
    both = Where(
        torch.cat((where.position_BQ, where.position_BQ), dim=1),
        twice(where.document_BQ),
        twice(where.block_BQ),
        torch.cat((clean_BQ, ~clean_BQ), dim=1),
    )
    inputs = torch.cat((noised_BL, clean_BL), dim=1)
    t_BQ = torch.cat((t_BL, torch.zeros_like(t_BL)), dim=1)
    moved_N = read_N + read_N // length * length
    if index_N is not None:
        assert where.block_BQ is not None
        block_N = where.block_BQ.flatten()
        moved_N = torch.where(block_N[read_N] == block_N[index_N.clamp(min=0)], moved_N, moved_N + length)
    return inputs, both, t_BQ, moved_N
