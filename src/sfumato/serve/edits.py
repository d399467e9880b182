"""Edits of a text as a row: what stays is given, spans become holes, and around new text the old may follow it."""

from collections.abc import Sequence

from sfumato.sample.front import Front
from sfumato.serve.errors import BadRequest
from sfumato.serve.schemas import Edit
from sfumato.text.prompt import Row


def edited_row(front: Front, text: str, edits: Sequence[Edit], context: int) -> Row:
    """The row of an edited text.

    Args:
        front: the model.
        text: before the edits.
        edits: spans of it, counted in characters (code points), that do not overlap.
        context: tokens to write anew on either side of a span that gets a given text.

    Raises:
        BadRequest: a span that is not in the text or overlaps another, or a text that is too long.
    """
    tokenizer = front.tokenizer
    tokens, editable, at, after_new = [*tokenizer.begin], [False] * len(tokenizer.begin), 0, False
    for edit in [*sorted(edits, key=lambda edit: (edit.start, edit.end)), None]:
        new = edit is not None and edit.text is not None
        if edit is not None:
            _check(edit, at, len(text), f"edits[{edits.index(edit)}]")
        start = edit.start if edit else len(text)
        if edit and not new and at < start and text[start - 1] == " ":
            start -= 1  # a word's token begins with the space before it
        kept = tokenizer.encode(text[at:start], continued=at > 0)
        tokens += kept
        editable += _ends(len(kept), context * after_new, context * new)
        if edit is None:
            break
        length = 0 if new else edit.length or len(tokenizer.encode(text[start : edit.end], continued=start > 0))
        given = tokenizer.encode(edit.text or "", continued=start > 0)
        if not new and not length:
            raise BadRequest("edits: an empty span needs a length or a text", f"edits[{edits.index(edit)}].length")
        tokens += given + [tokenizer.mask_id] * length
        editable += [False] * len(given) + [True] * length
        at, after_new = edit.end, new
    if len(tokens) + 1 > front.context:
        message = f"text: this model's context is {front.context} tokens, the edited text has {len(tokens) + 1}"
        raise BadRequest(message, "text", "context_length_exceeded")
    return Row([*tokens, tokenizer.end_id], [*editable, False])


def _check(edit: Edit, at: int, length: int, where: str) -> None:
    if not edit.start <= edit.end <= length:
        raise BadRequest(f"{where}: expected 0 <= start <= end <= {length}, got {edit.start}, {edit.end}", where)
    if edit.start < at:
        raise BadRequest(f"{where}: overlaps the edit before it", where)
    if edit.length is not None and edit.text is not None:
        raise BadRequest(f"{where}: give a length or a text, not both", where)


def _ends(length: int, first: int, last: int) -> list[bool]:
    """Which of so many tokens are among the first or the last ones."""
    return [i < first or i >= length - last for i in range(length)]
