"""Rows of a decoder that begin like earlier ones: what their caches take from a store, and give to it.

Shape letters: B rows.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from sfumato.canvas import Canvas
from sfumato.sample.forward import Forward
from sfumato.sample.prefix import PrefixStore
from sfumato.sample.rows import Request


class Beginnings:
    """What a decoder takes from a store for its new rows, and gives it of those that leave."""

    def __init__(self, store: PrefixStore, forward: Forward):
        """The store, and the decoder's forward, whose cache is exact."""
        self.store, self.forward = store, forward

    def adopt(self, canvas: Canvas, requests: Sequence[Request], new: int) -> Canvas:
        """Fill the cache of the newest rows as far as the store can; the canvas remembers how far that is."""
        rows, places = canvas.tokens_BL.shape
        kept = {}
        for row in range(rows - new, rows):
            first, size = requests[row].editable.index(True), self._size(requests[row])
            # The place that predicts the first token has to be run.
            most = max(0, first - self.forward.shift) // size * size
            count, prefix = self.store.find(requests[row].tokens[:first], size, most)
            if prefix is not None:
                self.forward.adopt(row, rows, places, prefix, count)
                kept[row] = count
        if not kept:
            return canvas
        kept_B = canvas.memory["kept_B"].clone()
        kept_B[list(kept)] = torch.tensor(list(kept.values()), device=kept_B.device)
        return replace(canvas, memory={**canvas.memory, "kept_B": kept_B})

    def give(self, canvas: Canvas, requests: Sequence[Request], leaving: Sequence[int]) -> None:
        """Keep what the cache holds of these rows, in whole blocks."""
        if self.forward.cache is None:
            return
        kept_B = self.forward.to_host(canvas.memory["kept_B"])
        for row in leaving:
            size = self._size(requests[row])
            tokens = canvas.tokens_BL[row, : kept_B[row] // size * size].tolist()
            if tokens and not self.store.covers(tokens, size):
                self.store.put(self.forward.prefix(row, tokens, size))

    def _size(self, request: Request) -> int:
        """Places that are seen together: those of a block, or one."""
        return request.block if self.forward.layout.name == "block" else 1
