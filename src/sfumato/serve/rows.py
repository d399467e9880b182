"""Rows of tokens with a hole to write in, within the context of a model."""

from collections.abc import Sequence

from sfumato.sample.front import Front
from sfumato.serve.errors import BadRequest
from sfumato.text.prompt import Row


def row_around(front: Front, before: Sequence[int], room: int, behind: Sequence[int] = ()) -> Row:
    """A hole of so many tokens (where rows grow: at most) behind some tokens, and perhaps before others.

    Raises:
        BadRequest: more than the context holds.
    """
    given = len(before) + len(behind)
    if (needed := given + room) > front.context:
        raise BadRequest(
            f"this model's context is {front.context} tokens, but {needed} are asked for ({given} given, {room} to "
            "write); shorten one or the other",
            "max_tokens" if given < front.context else "prompt",
            "context_length_exceeded",
        )
    if front.grows:
        gaps = [i == len(before) - 1 for i in range(given)]
        return Row([*before, *behind], [False] * given, gaps, needed)
    tokens = [*before, *[front.tokenizer.mask_id] * room, *behind]
    return Row(tokens, [len(before) <= i < len(before) + room for i in range(needed)])
