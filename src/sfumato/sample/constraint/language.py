"""Regular languages of text as small trees, from which automata are built.

A regular expression and a JSON schema both become such a tree. Characters are ranges of code points; NUL and lone
surrogates, which no clean text holds, belong to no range.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

Ranges = tuple[tuple[int, int], ...]
"""Code points, first and last of each stretch; ascending, apart from each other."""

_TEXT: Ranges = ((1, 0xD7FF), (0xE000, 0x10FFFF))
_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}  # what JSON calls them


@dataclass(frozen=True)
class Chars:
    """One character of a set; no range at all = no text."""

    ranges: Ranges


@dataclass(frozen=True)
class Seq:
    """One part after the other; no part = the empty text."""

    parts: tuple["Language", ...] = ()


@dataclass(frozen=True)
class Alt:
    """Any one of the parts."""

    parts: tuple["Language", ...]


@dataclass(frozen=True)
class Repeat:
    """A part at least and at most so many times; None = without limit."""

    part: "Language"
    least: int = 0
    most: int | None = None
    between: "Language | None" = None
    """What stands between two of them."""


Language = Chars | Seq | Alt | Repeat
ANY_CHARACTER = Chars(_TEXT)
ANY_TEXT = Repeat(ANY_CHARACTER)


def ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """The union of stretches of code points, within what text may hold."""
    clipped = [
        (max(low, first), min(high, last))
        for low, high in pairs
        for first, last in _TEXT
        if low <= last >= first <= high
    ]
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pair for pair in clipped if pair[0] <= pair[1]):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(inside: Ranges) -> Ranges:
    """All other characters."""
    edges = [0, *(edge for low, high in inside for edge in (low - 1, high + 1)), 0x10FFFF]
    return ranges(zip(edges[::2], edges[1::2], strict=True))


def common(first: Ranges, second: Ranges) -> Ranges:
    """The characters of both."""
    return complement(ranges((*complement(first), *complement(second))))


def chars(letters: str) -> Chars:
    """One of these characters."""
    return Chars(ranges((ord(letter), ord(letter)) for letter in letters))


def literal(text: str) -> Language:
    """This text."""
    return Seq(tuple(chars(letter) for letter in text))


def seq(*parts: Language | str) -> Language:
    """One after the other; a string stands for itself."""
    return Seq(tuple(literal(part) if isinstance(part, str) else part for part in parts))


def one_of(texts: Iterable[str]) -> Language:
    """Any of these texts."""
    return Alt(tuple(literal(text) for text in texts))


def quoted(language: Language) -> Language:
    """The texts as they stand inside of a JSON string: quotes, backslashes and control characters are escaped."""
    if isinstance(language, Chars):
        return _quoted_chars(language)
    if isinstance(language, Repeat):
        between = None if language.between is None else quoted(language.between)
        return Repeat(quoted(language.part), language.least, language.most, between)
    parts = tuple(quoted(part) for part in language.parts)
    return Seq(parts) if isinstance(language, Seq) else Alt(parts)


@lru_cache(maxsize=1024)
def _quoted_chars(one: Chars) -> Language:
    plain = common(one.ranges, complement(ranges([(0, 31), (34, 34), (92, 92)])))
    escaped = [letter for letter in _ESCAPES if any(low <= ord(letter) <= high for low, high in one.ranges)]
    if not escaped:
        return Chars(plain)
    return Alt((Chars(plain), seq("\\", chars("".join(_ESCAPES[letter] for letter in escaped)))))


def lengths(language: Language) -> tuple[int, int | None]:
    """The fewest and the most characters of its texts; None = without limit. An empty set counts as one character."""
    if isinstance(language, Chars):
        return 1, 1
    if isinstance(language, Repeat):
        assert language.between is None
        least, most = lengths(language.part)
        limit = 0 if most == 0 else None if most is None or language.most is None else most * language.most
        return least * language.least, limit
    bounds = [lengths(part) for part in language.parts]
    if isinstance(language, Seq):
        return sum(low for low, _ in bounds), _total([high for _, high in bounds])
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    return min(lows, default=0), None if None in highs else max(filter(None, highs), default=0)


def _total(highs: Sequence[int | None]) -> int | None:
    known = [high for high in highs if high is not None]
    return sum(known) if len(known) == len(highs) else None
