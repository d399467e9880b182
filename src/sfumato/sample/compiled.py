"""The trunk compiled for decoding: static shapes, weights frozen in, one compilation for each shape.

A forward of few positions is mostly overhead when it runs operation by operation. Compiled, the small operations are
fused; with its weights frozen in, the compiler packs them for the matrix product. On a CPU a shape takes 10 to 40 s the
first time and is kept on disk by torch for the next run.

Shape letters: B rows, Q places run in this forward, K places that can be read, N positions read, D width.
"""

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.model.cache import Kept
from sfumato.model.layout import Layout
from sfumato.model.transformer import Denoiser

SHAPES = 64  # compiled at most
_ROOM = 32  # positions that a forward of many places is compiled to read, or 4, 16, ... times as many
LONGEST = 3  # times the size of a block; longer runs (prompts) come in all lengths and are not worth compiling


class CompiledTrunk:
    """`encode` of a denoiser, compiled for the shapes that decoding repeats."""

    def __init__(self, denoiser: Denoiser, device: torch.device):
        """Nothing is compiled yet."""
        self._denoiser = denoiser
        # All models of a process share torch's limit of compilations; beyond it, it would silently compile no more.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
        if device.type == "cuda":  # captured once as a graph, then replayed
            self._run = torch.compile(self._encode, dynamic=False, mode="reduce-overhead")
        else:
            self._run = torch.compile(self._encode, dynamic=False, options={"freezing": True, "cpp_wrapper": True})

    def encode(
        self, inputs_BQ: Tensor, *, where: Where, layout: Layout, t_BQ: Tensor, read_N: Tensor, kept: Kept | None
    ) -> Tensor:
        """hidden_ND at the flat positions read_N; rows are filled up to those of the cache, so that shapes stay."""
        if kept is not None:
            extra = len(kept.cache.keys[0]) - len(inputs_BQ)
            spare_BQ = torch.full_like(kept.slot_BQ[:1], kept.cache.slots).expand(extra, -1)  # kept nowhere
            row_B = torch.arange(len(inputs_BQ) + extra, device=inputs_BQ.device) % len(inputs_BQ)
            inputs_BQ, t_BQ, where = inputs_BQ[row_B], t_BQ[row_B], where.at((row_B,))
            kept = Kept(kept.cache, torch.cat((kept.slot_BQ, spare_BQ)), kept.where.at((row_B,)))
        room = _ROOM
        while room < len(read_N):
            room *= 4
        if 2 * room > where.position_BQ.numel():
            return self._run(inputs_BQ, where, layout, t_BQ, None, kept).flatten(0, 1)[read_N]
        some_N = torch.nn.functional.pad(read_N, (0, room - len(read_N)))
        return self._run(inputs_BQ, where, layout, t_BQ, some_N, kept)[: len(read_N)]

    def _encode(
        self,
        inputs_BQ: Tensor,
        where: Where,
        layout: Layout,
        t_BQ: Tensor,
        read_N: Tensor | None,
        kept: Kept | None,
    ) -> Tensor:
        return self._denoiser.encode(inputs_BQ, where=where, layout=layout, t_BQ=t_BQ, read_N=read_N, kept=kept)
