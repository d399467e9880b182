"""What those who watch see of a step: the tokens that were written, the guesses for places still open.

Shape letters: B rows, L canvas length, N positions read in this step, C of them looked at, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.canvas import Canvas
from sfumato.sample.order import entropy
from sfumato.sample.rows import Request
from sfumato.sample.trace import Commit

RUNNERS_UP = 3


@dataclass
class Sight:
    """What is seen of one row."""

    commits: list[Commit] = field(default_factory=list)
    drafts: list[Commit] = field(default_factory=list)
    reopened: list[int] = field(default_factory=list)


def sights(
    requests: Sequence[Request],
    before: Canvas,
    after: Canvas,
    index_N: Tensor,
    logits_NV: Tensor,
    *,
    revises: bool,
) -> dict[int, Sight]:
    """What the rows that are watched show of a step.

    Args:
        requests: the rows.
        before: the canvas that the network saw.
        after: what the samplers made of it, before columns move and before anything but samplers closes a place.
        index_N: int64, flat places that were read.
        logits_NV: the network's scores there.
        revises: noise shows words: what stands at an open place is its draft; else the most probable token is.

    Returns:
        By the row's place among the requests; nothing for rows that nobody watches.
    """
    watched = [i for i, request in enumerate(requests) if request.trace]
    if not watched:
        return {}
    found = {i: Sight() for i in watched}
    length, device = after.tokens_BL.shape[1], after.tokens_BL.device
    opened_BL = after.open_BL & ~before.open_BL
    for row, place in opened_BL.nonzero().tolist():
        if row in found:
            found[row].reopened.append(place)
    unread_BL = torch.ones_like(after.open_BL).view(-1).index_fill(0, index_N, False).view_as(after.open_BL)
    for row, place in (unread_BL & before.open_BL & ~after.open_BL).nonzero().tolist():
        if row in found and requests[row].constraint is not None:  # what had no alternative, nobody asked the network
            found[row].commits.append(Commit(place, int(after.tokens_BL[row, place]), 1.0, 0.0, ()))
    wrote_BL = ~after.open_BL & (before.open_BL | (after.tokens_BL != before.tokens_BL))
    traced_B = torch.tensor([request.trace for request in requests], device=device)
    drafted_B = torch.tensor([request.trace and request.drafts for request in requests], device=device)
    look_BL = (wrote_BL & traced_B[:, None]) | (after.open_BL & drafted_B[:, None])
    look_N = look_BL.flatten()[index_N]
    index_C, logits_CV = index_N[look_N], logits_NV[look_N].float()
    if not len(index_C):
        return found
    final_C = wrote_BL.flatten()[index_C]
    token_C = after.tokens_BL.flatten()[index_C]
    if not revises:
        token_C = torch.where(final_C, token_C, logits_CV.argmax(dim=-1))
    for index, final, thought in zip(index_C.tolist(), final_C.tolist(), _thoughts(token_C, logits_CV), strict=True):
        row, place = divmod(index, length)
        sight = found[row]
        (sight.commits if final else sight.drafts).append(Commit(place, *thought))
    return found


def _thoughts(token_C: Tensor, logits_CV: Tensor) -> list[tuple[int, float, float, tuple[tuple[int, float], ...]]]:
    """Of each token: itself, its probability, the entropy of the distribution in nats, and the best other tokens."""
    p_CV = logits_CV.softmax(dim=-1)
    best = p_CV.topk(min(RUNNERS_UP + 1, p_CV.shape[-1]), dim=-1)
    columns = zip(
        token_C.tolist(),
        p_CV.gather(1, token_C[:, None]).squeeze(1).tolist(),
        entropy(logits_CV).tolist(),
        best.indices.tolist(),
        best.values.tolist(),
        strict=True,
    )
    thoughts = []
    for token, probability, nats, others, chances in columns:
        runners_up = [(other, p) for other, p in zip(others, chances, strict=True) if other != token][:RUNNERS_UP]
        thoughts.append((token, probability, nats, tuple(runners_up)))
    return thoughts
