r"""Regular expressions -> languages, in the syntax of Python's `re`; a text belongs if `re.fullmatch` takes all of it.

Left out is what no automaton can do (back-references, looking around) and what depends on the place in a line. `\d` is
0 to 9 alone, on which all dialects agree.
"""

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from re import _constants as op  # pyrefly: ignore[missing-module-attribute]
from re import _parser as parser  # pyrefly: ignore[missing-module-attribute]
from typing import Any

from sfumato.sample.constraint.language import (
    ANY_CHARACTER,
    ANY_TEXT,
    Alt,
    Chars,
    Language,
    Ranges,
    Repeat,
    Seq,
    common,
    complement,
    ranges,
)

_LONGEST = 20_000  # characters of a pattern
_CLASSES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_NOT_WORD: r"\W",
}
_BEGIN, _END = (op.AT_BEGINNING, op.AT_BEGINNING_STRING), (op.AT_END, op.AT_END_STRING)


class PatternError(ValueError):
    """A regular expression that cannot be used; one line, without the name of what held it."""


def parse(pattern: str) -> Language:
    """The language of a regular expression; `^` at its beginning and `$` at its end are taken for granted.

    Raises:
        PatternError: not a regular expression, or one that no automaton can follow.
    """
    return _read(pattern, 0, search=False)


def parse_search(pattern: str) -> Language:
    """The texts in which the expression is found somewhere, as JSON Schema's `pattern` means it.

    Raises:
        PatternError: as for `parse`.
    """
    return _read(pattern, re.ASCII, search=True)


def _read(pattern: str, flags: int, *, search: bool) -> Language:
    if len(pattern) > _LONGEST:
        raise PatternError(f"{len(pattern)} characters, expected at most {_LONGEST}; shorten it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = parser.parse(pattern, flags)
        return _Reader(found, ascii_only=bool((flags | found.state.flags) & re.ASCII)).whole(search=search)
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1}"
        raise PatternError(f"not a regular expression: {error.msg}{where}") from None
    except (RecursionError, OverflowError):
        raise PatternError("nested too deeply, or a count too large; simplify it") from None


class _Reader:
    """Turns what Python's parser found into a language."""

    def __init__(self, found: Any, *, ascii_only: bool):
        self.found, self.ascii_only = found, ascii_only
        self.dot_all = bool(found.state.flags & re.DOTALL)
        if found.state.flags & (re.IGNORECASE | re.MULTILINE | re.LOCALE):
            raise PatternError("the flags i, m and L cannot be followed; spell the letters out, as in [aA]")

    def whole(self, *, search: bool) -> Language:
        """Every alternative by itself, with its anchors."""
        return self._edges(list(self.found), search)

    def _edges(self, items: Sequence[tuple[Any, Any]], search: bool) -> Language:
        if len(items) == 1 and items[0][0] is op.BRANCH:
            return Alt(tuple(self._edges(list(way), search) for way in items[0][1][1]))
        if len(items) == 1 and items[0][0] is op.SUBPATTERN and items[0][1][1:3] == (0, 0):
            return self._edges(list(items[0][1][3]), search)
        begins = bool(items) and items[0][0] is op.AT and items[0][1] in _BEGIN
        items = items[begins:]
        ends = bool(items) and items[-1][0] is op.AT and items[-1][1] in _END
        items = items[: len(items) - ends]
        inner = self._sequence(items)
        if not search:
            return inner
        return Seq((*([] if begins else [ANY_TEXT]), inner, *([] if ends else [ANY_TEXT])))

    def _sequence(self, items: Any) -> Language:
        return Seq(tuple(self._item(kind, value) for kind, value in items))

    def _item(self, kind: Any, value: Any) -> Language:
        if kind is op.LITERAL:
            return Chars(ranges([(value, value)]))
        if kind is op.NOT_LITERAL:
            return Chars(complement(ranges([(value, value)])))
        if kind is op.ANY:
            return ANY_CHARACTER if self.dot_all else Chars(complement(((10, 10),)))
        if kind is op.IN:
            return self._set(value)
        if kind is op.CATEGORY:
            return Chars(_category(value, self.ascii_only, negated=False))
        if kind is op.BRANCH:
            return Alt(tuple(self._sequence(way) for way in value[1]))
        if kind is op.SUBPATTERN:
            if value[1] or value[2]:
                raise PatternError("flags inside of groups cannot be followed; spell them out")
            return self._sequence(value[3])
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            least, most, part = value
            return Repeat(self._sequence(part), int(least), None if most is op.MAXREPEAT else int(most))
        what = {
            op.AT: "^, $ or \\b inside of it",
            op.GROUPREF: "a back-reference",
            op.ASSERT: "looking ahead or behind",
        }
        what |= {op.ASSERT_NOT: "looking ahead or behind"}
        raise PatternError(f"{what.get(kind, str(kind).lower())} cannot be followed; write it without")

    def _set(self, items: Any) -> Chars:
        negated = items[0][0] is op.NEGATE
        inside: list[tuple[int, int]] = []
        for kind, value in items[negated:]:
            if kind is op.CATEGORY:
                inside += _category(value, self.ascii_only, negated=negated)
            else:
                inside.append((value, value) if kind is op.LITERAL else value)
        found = ranges(inside)
        return Chars(complement(found) if negated else found)


def _category(name: Any, ascii_only: bool, *, negated: bool) -> Ranges:
    r"""The characters of a class such as \w: those that all dialects take; inside of `[^...]` those that any takes."""
    wide = _members(_CLASSES[name], 0)
    if not ascii_only and name not in (op.CATEGORY_DIGIT, op.CATEGORY_NOT_DIGIT):
        return wide
    narrow = _members(_CLASSES[name], re.ASCII)
    return ranges((*wide, *narrow)) if negated else common(wide, narrow)


@lru_cache(maxsize=16)
def _members(one: str, flags: int) -> Ranges:
    text = "".join(map(chr, (*range(1, 0xD800), *range(0xE000, 0x110000))))
    return ranges((ord(text[m.start()]), ord(text[m.end() - 1])) for m in re.finditer(one + "+", text, flags))
