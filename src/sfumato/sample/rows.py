"""Rows of the decoder: what a request asks for, and the canvas that it becomes.

Shape letters: B rows, L canvas length.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from sfumato.canvas import Canvas
from sfumato.model.layout import Layout
from sfumato.process import Embed, Process
from sfumato.sample.constraint.seam import Constraint
from sfumato.sample.guidance import Guidance
from sfumato.sample.sampler import Sampler


@dataclass(frozen=True)
class Request:
    """One row to write."""

    tokens: Sequence[int]
    """The row; what stands at editable places is replaced by noise."""
    editable: Sequence[bool]
    sampler: Sampler
    steps: int
    """Forward passes at most; at least one a block. Left to right needs as many as there are tokens."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    block: int = 0
    """Full layout: editable tokens a block, 0 = all in one. Block layout: places a block, from the row's first on."""
    seed: int = 0
    clamp: bool = False
    """Gaussian noise: each step takes the token nearest to the prediction for the prediction."""
    trace: bool = False
    """Report every commit with its probability; costs a transfer to the host in each step."""
    drafts: bool = False
    """In the trace, also the network's guess for the places that stay open."""
    gaps: Sequence[bool] = ()
    """For each place whether text of any length may come right after it, in a row that grows; empty = nowhere."""
    limit: int = 0
    """Most tokens of a row that grows."""
    guidance: tuple[Guidance, ...] = ()
    """What changes the scores before the sampler reads them."""
    constraint: Constraint | None = None
    """What the text must obey; for rows whose end is open."""
    id: int = field(default=-1, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be decoded."""
        if any(self.gaps):
            assert len(self.gaps) == len(self.editable)
            if self.block:
                raise ValueError(f"block: got {self.block}, but a row that grows is written in one; leave it at 0")
            if self.limit <= len(self.tokens):
                raise ValueError(f"limit: got {self.limit}, expected more than the {len(self.tokens)} tokens given")
        elif not any(self.editable):
            raise ValueError("nothing to write: the text has no open position; ask for at least one token")

    def blocks(self, layout: Layout) -> list[int]:
        """For each place the number of its block, in the order of writing; -1 where nothing is written.

        Raises:
            ValueError: fewer steps than blocks.
        """
        if any(self.gaps):
            return [0 if written else -1 for written in map(any, zip(self.editable, self.gaps, strict=True))]
        if layout.name == "block":
            assert self.block, "the block layout needs to know the size of its blocks"
            numbers = [i // self.block for i in range(len(self.editable))]
        else:
            before = accumulate(self.editable)
            numbers = [(n - 1) // (self.block or len(self.editable)) for n in before]
        numbers = [n if editable else -1 for n, editable in zip(numbers, self.editable, strict=True)]
        count = len({n for n in numbers if n >= 0})
        if self.steps < count:
            raise ValueError(f"steps: got {self.steps}, expected at least {count}, one for each block of {self.block}")
        return numbers


def new_rows(
    requests: Sequence[Request], process: Process, layout: Layout, device: torch.device, embed: Embed | None = None
) -> Canvas:
    """Fresh rows of pure noise, padded to the longest; `embed` as in `Process.prior`."""
    length = max(len(request.tokens) for request in requests)

    def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], device=device)

    def column(values: Sequence[float], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    blocks = [request.blocks(layout) for request in requests]
    tokens_BL = padded([list(map(int, request.tokens)) for request in requests], 0)
    position_BL = padded([range(len(request.tokens)) for request in requests], -1)
    editable_BL = padded([list(map(int, request.editable)) for request in requests], 0).bool()
    zeros_B = torch.zeros(len(requests), dtype=torch.int64, device=device)
    memory = {
        "block_BL": padded(blocks, -1),
        "steps_BL": padded([_shares(row, r.steps) for row, r in zip(blocks, requests, strict=True)], 0),
        "tail_BL": padded([_tail(request.editable) for request in requests], 0).bool(),
        "gap_BL": padded([list(map(int, r.gaps)) or [0] * len(r.tokens) for r in requests], 0).bool(),
        "limit_B": column([request.limit for request in requests]),
        "active_B": column([min(b for b in row if b >= 0) for row in blocks]),
        "block_step_B": zeros_B,
        "step_B": zeros_B,
        "nfe_B": zeros_B,
        "positions_B": zeros_B,
        "kept_B": zeros_B,
        "cached_B": zeros_B - 1,
        "length_B": column([len(request.tokens) for request in requests]),
        "size_B": column([request.block or len(request.tokens) for request in requests]),
        "revises_B": column([request.sampler.revises or process.revises for request in requests]).bool(),
        "seed_B": column([request.seed for request in requests]),
        "temperature_B": column([request.temperature for request in requests], torch.float64),
        "top_k_B": column([request.top_k for request in requests]),
        "top_p_B": column([request.top_p for request in requests], torch.float64),
        "clamp_B": column([request.clamp for request in requests]).bool(),
    }
    t_B = torch.ones(len(requests), dtype=torch.float64, device=device)
    canvas = Canvas(tokens_BL, position_BL, editable_BL, editable_BL, t_B, memory)
    return process.prior(canvas, seeds_B=memory["seed_B"], embed=embed)


def _shares(block: Sequence[int], steps: int) -> list[int]:
    """For each place the steps of its block: one, and of the others a part that is proportional to its size."""
    size = Counter(b for b in block if b >= 0)
    spare, total = steps - len(size), sum(size.values())
    share, before, given = {}, 0, 0
    for b in sorted(size):
        before += size[b]
        upto = -(-spare * before // total)  # rounded up: a remainder goes to the earliest blocks
        share[b] = 1 + upto - given
        given = upto
    return [share.get(b, 0) for b in block]


def _tail(editable: Sequence[bool]) -> list[int]:
    """1 in the run of editable positions that reaches the end of the row: there, and only there, the text may end."""
    end = len(editable)
    while end and editable[end - 1]:
        end -= 1
    return [int(i >= end) for i in range(len(editable))]


_FILL = {"block_BL": -1}  # what padding holds in the memory; 0 where nothing is said


def _columns(canvas: Canvas, change: Callable[[Tensor, int], Tensor]) -> Canvas:
    """Apply change(value_BL, fill) to everything that has a column, of numbers or of vectors, for each position."""
    return Canvas(
        tokens_BL=change(canvas.tokens_BL, 0),
        position_BL=change(canvas.position_BL, -1),
        editable_BL=change(canvas.editable_BL, 0),
        open_BL=change(canvas.open_BL, 0),
        t_B=canvas.t_B,
        memory={k: change(v, _FILL.get(k, 0)) if k.endswith(("_BL", "_BLE")) else v for k, v in canvas.memory.items()},
    )


def grown(canvas: Canvas, mask_id: int) -> tuple[Canvas, Tensor]:
    """Insert masks after the places that `insert_BL` in the memory names; what stands to their right moves.

    A row that would become longer than its limit does without its last new masks. New places belong to the same hole as
    the place they follow: text may come after them too.

    Returns:
        The canvas, without the memory of this step's gaps; and bool_BL of it, what is new.
    """
    memory = {name: value for name, value in canvas.memory.items() if name not in ("insert_BL", "log_rate_BL")}
    insert_BL, real_BL = canvas.memory["insert_BL"], canvas.position_BL >= 0
    room_B1 = (memory["limit_B"] - memory["length_B"]).clamp(min=0)[:, None]
    upto_BL = torch.minimum(insert_BL.cumsum(dim=1), room_B1)
    end_BL = upto_BL + real_BL.cumsum(dim=1)  # of a place and what comes after it
    memory["length_B"] = end_BL[:, -1]
    place_BL = torch.arange(int(end_BL[:, -1].max()), device=end_BL.device).expand(len(end_BL), -1).contiguous()
    from_BL = torch.searchsorted(end_BL, place_BL, right=True).clamp(max=end_BL.shape[1] - 1)
    real_BL = place_BL < end_BL[:, -1:]
    first_BL = torch.ones_like(real_BL)
    first_BL[:, 1:] = from_BL[:, 1:] != from_BL[:, :-1]
    new_BL = real_BL & ~first_BL
    after = _columns(
        replace(canvas, memory=memory), lambda value_BL, fill: value_BL.gather(1, from_BL).masked_fill(~real_BL, fill)
    )
    editable_BL = after.editable_BL | new_BL
    memory = dict(after.memory)
    memory["tail_BL"] = real_BL & ((real_BL & ~editable_BL).flip(1).cumsum(dim=1).flip(1) == 0)
    return Canvas(
        torch.where(new_BL, mask_id, after.tokens_BL),
        torch.where(real_BL, place_BL, -1),
        editable_BL,
        after.open_BL | new_BL,
        after.t_B,
        memory,
    ), new_BL


def narrowed(canvas: Canvas, length: int) -> Canvas:
    """The first `length` columns."""
    return _columns(canvas, lambda value_BL, fill: value_BL[:, :length])


def stacked(above: Canvas, below: Canvas) -> Canvas:
    """One canvas of both, padded to the longer."""
    length = max(above.tokens_BL.shape[1], below.tokens_BL.shape[1])

    def widen(value_BL: Tensor, fill: int) -> Tensor:
        inner = (0, 0) * (value_BL.ndim - 2)
        return torch.nn.functional.pad(value_BL, (*inner, 0, length - value_BL.shape[1]), value=fill)

    a, b = _columns(above, widen), _columns(below, widen)
    return Canvas(
        tokens_BL=torch.cat((a.tokens_BL, b.tokens_BL)),
        position_BL=torch.cat((a.position_BL, b.position_BL)),
        editable_BL=torch.cat((a.editable_BL, b.editable_BL)),
        open_BL=torch.cat((a.open_BL, b.open_BL)),
        t_B=torch.cat((a.t_B, b.t_B)),
        memory={name: _joined(a, b, name) for name in a.memory | b.memory},
    )


def _joined(above: Canvas, below: Canvas, name: str) -> Tensor:
    """A column of the memory; zeros for rows whose samplers have not remembered anything by that name yet."""
    known = above.memory.get(name, below.memory.get(name))
    assert known is not None
    parts = (canvas.memory.get(name, known.new_zeros(len(canvas.t_B), *known.shape[1:])) for canvas in (above, below))
    return torch.cat(tuple(parts))
