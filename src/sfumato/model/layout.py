"""Layouts: which position sees which. One rule for training, prefill, denoising and commit. A new layout is one class.

Shape letters: B rows, Q positions run in this forward, K key positions.
"""

from typing import Protocol

import torch
from torch import Tensor

from sfumato.canvas import Where


class Layout(Protocol):
    """Who sees whom."""

    name: str

    def visible(self, query: Where, key: Where) -> Tensor | None:
        """bool_BQK, true where the query may read the key; None when every query reads every key."""
        ...


def _same_document(query: Where, key: Where) -> Tensor | None:
    if query.document_BQ is None or key.document_BQ is None:
        return None
    return query.document_BQ[:, :, None] == key.document_BQ[:, None, :]


class Full:
    """Everything in the same document."""

    name = "full"

    def visible(self, query: Where, key: Where) -> Tensor | None:
        """The document mask. Padding (document -1) sees padding only, so that no row of the softmax is empty."""
        return _same_document(query, key)


class Causal:
    """Everything in the same document that does not come later."""

    name = "causal"

    def visible(self, query: Where, key: Where) -> Tensor | None:
        """The document mask and not later. Padding sees all padding, so that no row of the softmax is empty."""
        past_BQK = query.position_BQ[:, :, None] >= key.position_BQ[:, None, :]
        same_BQK = _same_document(query, key)
        return past_BQK if same_BQK is None else torch.logical_and(past_BQK, same_BQK)


def layout_named(name: str) -> Layout:
    """The layout that a bundle names; ValueError for an unknown name."""
    layouts: tuple[Layout, ...] = (Full(), Causal())
    for layout in layouts:
        if layout.name == name:
            return layout
    raise ValueError(f"layout: got {name!r}, expected one of {', '.join(known.name for known in layouts)}")
