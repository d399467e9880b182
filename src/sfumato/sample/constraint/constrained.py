"""The constrained rows of a decoder: what a constraint decides is given to the samplers as scores and as draws.

The tokens at all places that were read come from one valid text. So whichever of them a sampler commits, a valid text
still exists: that one. Nothing is carried between steps; what a row may become follows from what is written in it.

Shape letters: B rows, L canvas length, N positions read, M of them in one row, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas
from sfumato.process import Process
from sfumato.sample.categorical import WITH_WHAT, Draw
from sfumato.sample.constraint.seam import Look
from sfumato.sample.rows import Request

_OPEN = -1
_AHEAD = 32  # places beyond the first open one that are looked at for tokens without an alternative
_SURE = ("confidence", "margin", "entropy", "threshold", "factor", "entropy_bounded", "left_to_right")


def check_constraint(request: Request, process: Process) -> None:
    """Refuse a constraint that cannot be kept (ValueError)."""
    constraint, sampler = request.constraint, request.sampler
    if constraint is None:
        return
    if process.name not in ("masked", "autoregressive"):
        raise ValueError(f"constraint: not for the {process.name} process; use a masked or an autoregressive model")
    if not sampler.commits_draws:
        raise ValueError(
            f"sampler: {sampler.name!r} may guess or take back what it writes, which no constraint survives; use one "
            f"of {', '.join(_SURE)}, without patience"
        )
    first = list(request.editable).index(True)
    room = len(request.editable) - first
    if any(request.gaps) or not all(request.editable[first:]):
        raise ValueError("constraint: works on an open end, with nothing fixed behind it; got holes or a fixed length")
    if constraint.shortest > room:
        raise ValueError(
            f"max_tokens: got room for {room}, but the shortest valid text needs at least {constraint.shortest} tokens"
        )


def constrained(
    requests: Sequence[Request], logits_NV: Tensor, index_N: Tensor, canvas: Canvas, draw: Draw
) -> tuple[Tensor, Draw]:
    """The scores and the draw of a step, in which constraints have had their say; unchanged for the other rows.

    Args:
        requests: the rows.
        logits_NV: the network's scores, after guidance.
        index_N: int64, the places read, flat in B*L, ascending.
        canvas: the rows.
        draw: theirs.
    """
    rows = [i for i, request in enumerate(requests) if request.constraint is not None]
    if not rows or not len(index_N):
        return logits_NV, draw
    length = canvas.tokens_BL.shape[1]
    decided_BL = torch.full_like(canvas.tokens_BL, _OPEN)
    logits_NV = logits_NV.clone()
    begin_B = torch.searchsorted(index_N, torch.arange(len(requests) + 1, device=index_N.device) * length).tolist()
    for row in rows:
        at_M = slice(begin_B[row], begin_B[row + 1])
        index_M, constraint = index_N[at_M], requests[row].constraint
        if not len(index_M):
            continue
        assert constraint is not None
        first, tokens = _known(requests[row], canvas, row)
        look = _look(requests[row], first, tokens, logits_NV[at_M], index_M, canvas, draw)
        choice = constraint.choose(look)
        places = (index_M % length - first).tolist()
        told_MV = torch.from_numpy(np.stack([choice.log_p[place] for place in places]))
        logits_NV[at_M] = told_MV.to(logits_NV)
        chosen = [choice.tokens[place] for place in places]
        decided_BL.view(-1)[index_M] = torch.tensor(chosen, device=decided_BL.device)
    return logits_NV, replace(draw, decided_BL=decided_BL)


def kept(requests: Sequence[Request], before: Canvas, after: Canvas, draw: Draw) -> Canvas:
    """The canvas after a step as the constraints want it, with every token to which there is no alternative.

    Args:
        requests: the rows.
        before: the canvas that the network saw.
        after: what the samplers made of it.
        draw: of this step.
    """
    canvas = after
    rows = [row for row, request in enumerate(requests) if request.constraint is not None]
    active_BL = after.memory["block_BL"] == after.memory["active_B"][:, None] if rows else None
    for row in rows:
        request, constraint = requests[row], requests[row].constraint
        assert constraint is not None and active_BL is not None
        if constraint.sequential and draw.decided_BL is not None:
            canvas = _in_order(row, before, canvas, draw.decided_BL[row])
        open_L = canvas.open_BL[row] & active_BL[row]
        places = open_L.nonzero().flatten().tolist()
        if not places:
            continue
        first, tokens = _known(request, canvas, row)
        upto = min(places[-1] + 1, places[0] + _AHEAD) - first
        tokens += [_OPEN] * (upto - len(tokens))
        forced = constraint.forced(tokens, len(request.tokens) - first - len(tokens))
        known = [(place, forced[place - first]) for place in places if place - first < len(forced)]
        known = [(place, token) for place, token in known if token != _OPEN]
        if known:
            index_C = torch.tensor([place for place, _ in known], device=open_L.device) + row * open_L.shape[0]
            canvas = canvas.write(index_C, torch.tensor([token for _, token in known], device=open_L.device))
    return canvas


def _in_order(row: int, before: Canvas, after: Canvas, decided_L: Tensor) -> Canvas:
    """The row with what was written up to its first open place, and at least one token more than before."""
    was_L = before.open_BL[row]
    first = int(was_L.int().argmax())
    if not was_L[first] or decided_L[first] == _OPEN:
        return after
    still_L = after.open_BL[row] & was_L
    still_L[first] = False
    late_L = was_L & (still_L.cumsum(dim=0) > 0)
    tokens_BL, open_BL = after.tokens_BL.clone(), after.open_BL.clone()
    tokens_BL[row] = torch.where(late_L, before.tokens_BL[row], after.tokens_BL[row])
    tokens_BL[row, first] = decided_L[first]
    open_BL[row] = torch.where(late_L, was_L, after.open_BL[row])
    open_BL[row, first] = False
    return replace(after, tokens_BL=tokens_BL, open_BL=open_BL)


def _known(request: Request, canvas: Canvas, row: int) -> tuple[int, list[int]]:
    """The first place under the constraint; and the tokens from there to the last that is written, -1 if open."""
    first = list(request.editable).index(True)
    part = slice(first, len(request.tokens))
    tokens_L, open_L = canvas.tokens_BL[row, part], canvas.open_BL[row, part]
    tokens = torch.where(open_L, _OPEN, tokens_L).tolist()
    while tokens and tokens[-1] == _OPEN:
        tokens.pop()
    return first, tokens


def _look(
    request: Request, first: int, tokens: list[int], logits_MV: Tensor, index_M: Tensor, canvas: Canvas, draw: Draw
) -> Look:
    places = (index_M % canvas.tokens_BL.shape[1] - first).tolist()
    tokens = tokens + [_OPEN] * (places[-1] + 1 - len(tokens))
    plain = dict(zip(places, draw.floored(logits_MV).cpu().numpy(), strict=True))
    sharp, uniforms = plain, None
    if request.temperature > 0 and (request.temperature, request.top_k, request.top_p) != (1.0, 0, 1.0):
        sharp = dict(zip(places, draw.softened(logits_MV, index_M, canvas).cpu().numpy(), strict=True))
    if request.temperature > 0:
        place_L = torch.arange(first, first + len(tokens), device=index_M.device)
        row = index_M[0] // canvas.tokens_BL.shape[1]
        uniforms = rng.uniform(draw.seeds_B[row], place_L, WITH_WHAT).tolist()
    span = range(len(tokens))
    told = [plain.get(i) for i in span]
    after = len(request.tokens) - first - len(tokens)
    return Look(tokens, after, told if sharp is plain else [sharp.get(i) for i in span], told, uniforms)
