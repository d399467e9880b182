"""One forward pass of all rows, whatever their phase, over what the cache does not hold yet.

A row runs one stretch of places: its finished blocks that are not kept yet, as clean text, and the active block. So a
finished block is committed to the cache by the same forward that makes the next block's first step.

Shape letters: B rows, L canvas length, Q places run in this forward, K places that can be read, N positions read,
V vocabulary.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sfumato.canvas import Canvas, Where, Window
from sfumato.model.cache import Cache, Kept
from sfumato.model.layout import Layout, Unmasked
from sfumato.model.transformer import Denoiser
from sfumato.process import Process
from sfumato.sample.compiled import LONGEST, CompiledTrunk
from sfumato.sample.latents import Latents
from sfumato.sample.prefix import Prefix
from sfumato.sample.reuse import Extent, Reuse

_CHUNK = 64  # a cache grows by so many places


@dataclass
class Counters:
    """Work done, all rows together."""

    forwards: int = 0
    positions: int = 0
    """Query positions run through the network, padding included."""
    logits: int = 0
    """Positions projected to the vocabulary."""
    copies: int = 0
    """Transfers between the host and the network's device; 0 on a CPU."""
    copied_bytes: int = 0
    seconds: float = 0.0
    """Inside the network; on a GPU only what it takes to launch it."""


class Forward:
    """The network and what it keeps between steps."""

    def __init__(
        self,
        denoiser: Denoiser,
        layout: Layout,
        process: Process,
        reuse: Reuse,
        device: torch.device,
        compiled: CompiledTrunk | None = None,
        latents: Latents | None = None,
    ):
        """Everything that stays the same from step to step; `device` is where the denoiser is."""
        self.denoiser, self.layout, self.reuse, self.device = denoiser, layout, reuse, device
        self.shift = process.shift
        self.tell_prompts = process.revises  # as in training: a word that was never noised has level 0
        self.latents = latents
        self.counters = Counters()
        self.cache: Cache | None = None
        self._compiled = compiled

    def beside(self) -> "Forward":
        """The same network for other rows: a cache of its own, the same counters."""
        other = copy.copy(self)
        other.cache = None
        return other

    def keep(self, rows_R: Tensor | None) -> None:
        """Forget all rows but these (int64 indices; one that is named twice is forked); None forgets all."""
        if self.cache is None:
            return
        if self._compiled is not None:  # its buffers stay where they are
            self.cache.move(torch.empty(0, dtype=torch.int64) if rows_R is None else rows_R)
        else:
            self.cache = None if rows_R is None else self.cache.select(rows_R.to(self.device))

    def adopt(self, row: int, rows: int, places: int, prefix: Prefix, count: int) -> None:
        """Fill the first places of a row of the cache, which gets room for so many rows and places, from a prefix."""
        cache = self._room(rows, places)
        for buffers, kept in ((cache.keys, prefix.keys), (cache.values, prefix.values)):
            for buffer, part_PHE in zip(buffers, kept, strict=True):
                buffer[row, :count] = part_PHE[:count]

    def prefix(self, row: int, tokens: Sequence[int], size: int) -> Prefix:
        """A copy of what the cache holds of a row's first tokens."""
        assert self.cache is not None
        upto = len(tokens)
        keys, values = (tuple(b[row, :upto].clone() for b in parts) for parts in (self.cache.keys, self.cache.values))
        return Prefix(np.asarray(tokens, np.int64), size, keys, values)

    def __call__(
        self, canvas: Canvas, window: Window, index_N: Tensor, gap_G: Tensor | None = None
    ) -> tuple[Tensor, Canvas]:
        """logits_NV at flat places of the canvas, and the canvas, which remembers how much is kept.

        Args:
            canvas: the rows; `memory` holds length_B, size_B (places in a block of the layout) and kept_B.
            window: the active blocks.
            index_N: int64 into B*L, inside the active blocks.
            gap_G: where the gap head is wanted, likewise; the memory of the canvas gets what it says as log_rate_BL.
        """
        length = canvas.tokens_BL.shape[1]
        # A row that reads nothing now fills no cache now: what its neighbours do must not matter to it.
        reads_B = torch.zeros_like(canvas.t_B, dtype=torch.bool).index_fill_(0, index_N // length, True)
        extent = self._extent(canvas, window, reads_B)
        begin_B, end_B = self.reuse.run(extent)
        spans = _Spans(*self.to_host(torch.stack((begin_B, end_B, extent.begin_B, extent.last_B))))
        cache = self._room(len(begin_B), length) if self.reuse.keeps else None
        run, static = self._fixed(spans.run, canvas)
        place_BQ = begin_B[:, None] + torch.arange(run, device=begin_B.device)
        real_BQ = place_BQ < end_B[:, None]
        place_BQ = torch.minimum(place_BQ, end_B[:, None] - 1)  # padding repeats the last place
        both_N = index_N if gap_G is None else torch.cat((index_N, gap_G))
        row_N = both_N // length
        before_N = (both_N % length - self.shift).clamp(min=0)  # the first place of a row predicts itself
        read_N = row_N * run + before_N - begin_B[row_N]
        read = cache.slots if cache is not None and static else spans.read
        query, key, layout = self._who(canvas, extent, place_BQ, real_BQ, spans, read, static)
        kept = None
        if cache is not None:
            kept = Kept(cache, torch.where(real_BQ, place_BQ, cache.slots).to(self.device), key)
        t_BQ = canvas.t_B.float()[:, None].expand_as(place_BQ)
        if self.layout.name == "causal":  # nothing there is noised
            t_BQ = torch.zeros_like(t_BQ)
        if query.clean_BQ is not None:
            t_BQ = torch.where(query.clean_BQ, 0.0, t_BQ)
        if self.tell_prompts:
            t_BQ = torch.where(canvas.editable_BL.gather(1, place_BQ), t_BQ, 0.0)
        inputs_BQ = canvas.tokens_BL.gather(1, place_BQ)
        if self.latents is not None:
            inputs_BQ, t_BQ = self.latents.inputs(canvas, window, place_BQ)
        start = time.perf_counter()
        trunk = self._compiled if self._compiled is not None and static else self.denoiser
        hidden_ND = trunk.encode(
            inputs_BQ.to(self.device),
            where=query.to(self.device),
            layout=layout,
            t_BQ=t_BQ.to(self.device),
            read_N=read_N.to(self.device),
            kept=kept,
        )
        logits_NV = self.denoiser.readout(hidden_ND[: len(index_N)])
        if gap_G is not None:
            log_rate_G = self.denoiser.readout(hidden_ND[len(index_N) :], head="gap").to(canvas.t_B)
            log_rate_BL = torch.zeros_like(canvas.tokens_BL, dtype=canvas.t_B.dtype)
            log_rate_BL = log_rate_BL.view(-1).index_put((gap_G,), log_rate_G).view_as(log_rate_BL)
            canvas = replace(canvas, memory={**canvas.memory, "log_rate_BL": log_rate_BL})
        self.counters.seconds += time.perf_counter() - start
        self.counters.forwards += 1
        self.counters.positions += place_BQ.numel()
        self.counters.logits += len(index_N)
        positions_B = canvas.memory["positions_B"] + (end_B - begin_B)
        canvas = replace(canvas, memory={**canvas.memory, "positions_B": positions_B})
        if self.reuse.name == "exact":
            final_B = extent.last_B if self.layout.name == "causal" else extent.begin_B
            canvas = replace(canvas, memory={**canvas.memory, "kept_B": final_B})
        elif self.reuse.keeps:
            cached_B = torch.where(reads_B, canvas.memory["active_B"], canvas.memory["cached_B"])
            canvas = replace(canvas, memory={**canvas.memory, "cached_B": cached_B})
        return logits_NV.to(canvas.tokens_BL.device), canvas

    def to_host(self, values: Tensor) -> list:
        """The values as Python numbers, counted as a copy where they have to travel."""
        if values.device.type != "cpu":
            self.counters.copies += 1
            self.counters.copied_bytes += values.nbytes
        return values.tolist()

    def _extent(self, canvas: Canvas, window: Window, reads_B: Tensor) -> Extent:
        memory, active_BL = canvas.memory, window.active_BL
        first_B = active_BL.int().argmax(dim=1)
        before_B = (first_B - self.shift).clamp(min=0)
        kept_B = memory["kept_B"]
        if self.layout.name != "causal":  # what predicts the first place of the block has to run with it
            kept_B = torch.minimum(kept_B, before_B)
        anew_B = reads_B & self.reuse.stale(memory["cached_B"], memory["active_B"], memory["block_step_B"])
        if self.layout.name == "full":
            end_B = active_BL.shape[1] - active_BL.flip(1).int().argmax(dim=1)
            written_B = ~canvas.open_BL.gather(1, first_B[:, None])[:, 0]  # then it need not be predicted
            begin_B = torch.where(written_B, first_B, before_B)
            return Extent(kept_B, begin_B, end_B, memory["length_B"], anew_B)
        if self.layout.name == "causal":  # what comes after the place that predicts the next token is seen by nobody
            last_B = (canvas.open_BL & active_BL).int().argmax(dim=1) + 1 - self.shift
            return Extent(kept_B, last_B, last_B, last_B, anew_B)
        begin_B = first_B // memory["size_B"] * memory["size_B"]
        end_B = torch.minimum(begin_B + memory["size_B"], memory["length_B"])
        return Extent(kept_B, begin_B, end_B, end_B, anew_B)

    def _fixed(self, run: int, canvas: Canvas) -> tuple[int, bool]:
        """How many places a row runs, and whether that is one of the few numbers that are compiled for."""
        if self._compiled is None:
            return run, False
        if self.layout.name == "full":
            return run, True
        size = 1 if self.layout.name == "causal" else max(self.to_host(canvas.memory["size_B"]))
        fixed = -(-run // size) * size
        return (fixed, True) if fixed < LONGEST * size else (run, False)

    def _who(
        self,
        canvas: Canvas,
        extent: Extent,
        place_BQ: Tensor,
        real_BQ: Tensor,
        spans: "_Spans",
        read: int,
        static: bool,
    ) -> tuple[Where, Where, Layout]:
        """Who the places of this forward are, who can be read, and by which rule."""
        keeps, blocks = self.reuse.keeps, self.layout.name == "block"
        place_BK = torch.arange(read, device=place_BQ.device).expand(len(place_BQ), -1)
        if not static and spans.see_all(keeps, self.layout.name):
            return Where(place_BQ, None), Where(place_BK, None).to(self.device), Unmasked(self.layout)
        size_B1, begin_B1, last_B1 = canvas.memory["size_B"][:, None], extent.begin_B[:, None], extent.last_B[:, None]

        def who(place_BK: Tensor, real_BK: Tensor) -> Where:
            document_BK = torch.where(real_BK, 0, -1)
            if not blocks:
                return Where(place_BK, document_BK)
            return Where(place_BK, document_BK, place_BK // size_B1, place_BK < begin_B1)

        key = who(place_BK, place_BK < last_B1).to(self.device)
        if keeps:
            return who(place_BQ, torch.ones_like(real_BQ)), key, self.layout
        return who(place_BQ, real_BQ), key, self.layout

    def _room(self, rows: int, places: int) -> Cache:
        """The cache, with buffers for so many rows and places."""
        slots = -(-places // _CHUNK) * _CHUNK
        if self.cache is None:
            self.cache = self.denoiser.empty_cache(rows, slots)
        elif self._compiled is not None and rows <= len(self.cache.keys[0]) and places <= self.cache.slots:
            return self.cache
        elif len(self.cache.keys[0]) != rows or self.cache.slots < places:
            self.cache = self.cache.resized(rows, max(slots, self.cache.slots))
        return self.cache


@dataclass(frozen=True)
class _Spans:
    """What the host knows of a forward: of each row, where run, active block and readable text begin and end."""

    begin: Sequence[int]
    end: Sequence[int]
    active: Sequence[int]
    last: Sequence[int]

    @property
    def run(self) -> int:
        """Q."""
        return max(end - begin for begin, end in zip(self.begin, self.end, strict=True))

    @property
    def read(self) -> int:
        """K."""
        return max(self.last)

    def see_all(self, keeps: bool, layout: str) -> bool:
        """Whether every place of every row reads everything, so that no mask is needed."""
        if len(set(self.last)) > 1:
            return False
        if layout == "causal":
            return self.run == 1 and keeps
        if layout == "block" and any(begin < active for begin, active in zip(self.begin, self.active, strict=True)):
            return False
        return keeps or len(set(self.begin)) == 1
