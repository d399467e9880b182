"""Packing documents of different lengths into rows of one length, with little padding and few cuts."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

SMALLEST_CUT = 32  # places: less room than this becomes padding, since a shorter piece teaches little


class Piece(NamedTuple):
    """Tokens `begin` up to `end` of document `index`; in its row the opening stands before them."""

    index: int
    begin: int
    end: int


def pack(
    lengths: Sequence[int],
    context: int,
    *,
    prompts: Sequence[int] | None = None,
    fill: bool = True,
    opening: int = 1,
) -> list[list[Piece]]:
    """Pack every token of every document exactly once, best fit first; a pure function of its arguments.

    A document that is longer than a row is cut into full rows and a rest. Each row takes the longest piece that fits,
    again and again; when none fits and `fill` is set, room for 32 places or more takes the head of the longest piece.
    A response needs its prompt in sight: a document that begins with one is cut only if it is longer than a row. Of
    its pieces those that hold nothing but prompt are left out, and those after the first lack the prompt.

    Args:
        lengths: tokens in each document, without the opening.
        context: places in a row; a piece takes those of its tokens and its opening.
        prompts: how many tokens at the head of each document are a prompt; None = no document has one.
        fill: cut documents to fill rows (training); else only those longer than a row are cut (evaluation).
        opening: places before each piece: 1 for a start token, 0 where a text begins with nothing.

    Returns:
        Rows of pieces, ordered by the document of their first piece, so that no stretch of rows has a typical length.
    """
    room = context - opening  # tokens in a row of one piece
    assert room > 0, context
    rows: list[list[Piece]] = []
    prompts = [0] * len(lengths) if prompts is None else prompts
    waiting: list[tuple[int, int, int]] = []  # (length, index, begin), sorted
    for index, length in enumerate(lengths):
        whole = length - length % room if length > room else 0
        rows += [
            [Piece(index, begin, begin + room)] for begin in range(0, whole, room) if begin + room > prompts[index]
        ]
        if length > whole:
            waiting.append((length - whole, index, whole))
    waiting.sort()
    while waiting:
        row: list[Piece] = []
        left = context
        while waiting:
            at = bisect_left(waiting, (left - opening + 1,)) - 1  # the longest with length + opening <= left
            if at >= 0:
                length, index, begin = waiting.pop(at)
                row.append(Piece(index, begin, begin + length))
                left -= length + opening
            elif fill and left >= SMALLEST_CUT and (at := _longest_to_cut(waiting, prompts)) >= 0:
                length, index, begin = waiting.pop(at)
                cut = begin + left - opening
                row.append(Piece(index, begin, cut))
                insort(waiting, (begin + length - cut, index, cut))
                break
            else:
                break
        rows.append(row)
    rows.sort()
    return rows


def _longest_to_cut(waiting: Sequence[tuple[int, int, int]], prompts: Sequence[int]) -> int:
    """Where the longest piece without a prompt stands in `waiting`, or -1."""
    places = range(len(waiting) - 1, -1, -1)
    return next((at for at in places if waiting[at][2] >= prompts[waiting[at][1]]), -1)
