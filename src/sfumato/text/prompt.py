"""Prompts: text with holes -> a row of tokens to write on, and the finished row -> text.

In a template `{8}` is a hole of eight tokens, `{?}` one of any length (for models whose rows grow), `{*}` at the end
leaves the end open, `{{` and `}}` are braces.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sfumato.text.interface import AnyTokenizer

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
ANY_LENGTH = 0
_HOLE_LENGTH = re.compile("0*[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Row:
    """One row of a canvas to be.

    Attributes:
        tokens: ids, holes filled with the mask.
        editable: for each token, whether generation writes it; the request's own text is never editable.
        gaps: for each token, whether text of any length may come right after it; empty for a row that does not grow.
        limit: most tokens of a row that grows.
    """

    tokens: list[int]
    editable: list[bool]
    gaps: list[bool] = field(default_factory=list)
    limit: int = 0

    @property
    def first_written(self) -> int:
        """Where the first hole begins."""
        written = [i for i, editable in enumerate(self.editable) if editable]
        return min(written + [i + 1 for i, gap in enumerate(self.gaps) if gap])

    @property
    def room(self) -> int:
        """Tokens to write, at most."""
        return sum(self.editable) + max(0, self.limit - len(self.tokens))


def parse(template: str) -> list[str | int | None]:
    """Split a template into its pieces.

    Returns:
        A string for literal text, an int for a hole of so many tokens (0: of any length), None for the open end.

    Raises:
        ValueError: a brace that is neither a hole nor doubled, or `{*}` before the end; the message names the column.
    """
    pieces: list[str | int | None] = []
    literal, at = "", 0
    for brace in _BRACES.finditer(template):
        literal += template[at : brace.start()]
        at = brace.end()
        if brace[0] in ("{{", "}}"):
            literal += brace[0][0]
            continue
        pieces += [literal] if literal else []
        literal = ""
        pieces.append(_hole(brace, at == len(template)))
    literal += template[at:]
    return pieces + ([literal] if literal else [])


def _hole(brace: re.Match[str], last: bool) -> int | None:
    """The hole that a match of `_BRACES` stands for."""
    where = f"template, column {brace.start() + 1}"
    if brace[1] == "*":
        if not last:
            raise ValueError(
                f"{where}: {{*}} leaves the end open, so nothing may follow it; use {{n}} for an inner hole"
            )
        return None
    if brace[1] == "?":
        return ANY_LENGTH
    if not _HOLE_LENGTH.fullmatch(brace[1] or ""):
        shown = brace[0] if len(brace[0]) <= 24 else brace[0][:20] + " ..."
        raise ValueError(
            f"{where}: expected a hole such as {{8}} (at least one token) or {{*}}, got {shown!r}; "
            "double a brace that is text: {{ or }}"
        )
    return int(brace[1])


def canvas_row(
    tokenizer: AnyTokenizer,
    text: str,
    *,
    context: int,
    max_tokens: int | None = None,
    template: bool = False,
    grows: bool = False,
) -> Row:
    """Lay a prompt or template out as a row that begins as texts do.

    Each literal piece is encoded alone. A template without an open end is a closed text: the end token follows it.

    Args:
        tokenizer: gives the ids.
        text: a plain prompt, which the row continues; or a template (see `parse`).
        context: the longest row allowed, in tokens.
        max_tokens: length of the open end; None: all that the context leaves. Where rows grow, the most tokens of the
            open end and the holes of any length together.
        template: read braces in `text` as holes.
        grows: the row may grow: the open end and holes of any length begin as nothing.

    Raises:
        ValueError: a malformed template or one without a hole, an impossible `max_tokens`, or a row beyond `context`.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    pieces = parse(text) if template else [text, None]
    if all(isinstance(piece, str) for piece in pieces):
        raise ValueError("template has no hole to write in: put {n} where n tokens shall stand, or {*} at the end")
    if ANY_LENGTH in pieces and not grows:
        raise ValueError("template: {?}, a hole of any length, needs an insertion model; use {n} for n tokens")
    closed = pieces[-1] is not None
    # What stands behind a hole goes on with a text.
    encoded = [tokenizer.encode(p, continued=i > 0) if isinstance(p, str) else p for i, p in enumerate(pieces)]
    fixed = len(tokenizer.begin) + closed + sum(len(piece) for piece in encoded if isinstance(piece, list))
    holes = sum(piece for piece in encoded if isinstance(piece, int))
    fits = closed and ANY_LENGTH not in pieces
    open_end = 0 if fits else max(1, context - fixed - holes) if max_tokens is None else max_tokens
    if (needed := fixed + holes + open_end) > context:
        raise ValueError(
            f"{'template' if template else 'prompt'} too long: {needed} tokens "
            f"({fixed} given, {holes + open_end} to write), but the context holds {context}; shorten one or the other"
        )
    tokens, editable, gaps = [*tokenizer.begin], [False] * len(tokenizer.begin), set()
    for piece in encoded:
        if isinstance(piece, list):
            tokens += piece
            editable += [False] * len(piece)
        elif grows and not piece:
            gaps.add(len(tokens) - 1)
        else:
            length = open_end if piece is None else piece
            tokens += [tokenizer.mask_id] * length
            editable += [True] * length
    if closed:
        tokens.append(tokenizer.end_id)
        editable.append(False)
    if not gaps:
        return Row(tokens, editable)
    return Row(tokens, editable, [i in gaps for i in range(len(tokens))], len(tokens) + open_end)


def text_of(tokenizer: AnyTokenizer, tokens: Iterable[int], prompt_length: int = 0) -> str:
    """Text of a finished row, up to the first end token.

    Args:
        tokenizer: gives the text.
        tokens: the row.
        prompt_length: tokens to leave out at its beginning.
    """
    row = list(tokens)
    ids = row[prompt_length:]
    written = ids[: ids.index(tokenizer.end_id)] if tokenizer.end_id in ids else ids
    return tokenizer.decode(written, continued=goes_on(tokenizer, row, prompt_length))


def goes_on(tokenizer: AnyTokenizer, tokens: Sequence[int], place: int) -> bool:
    """Whether text stands right before a place of a row, which the text there continues."""
    return place > 0 and not tokenizer.is_special(tokens[place - 1])
