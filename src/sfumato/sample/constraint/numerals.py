"""JSON numbers within bounds, as languages: whole ones, and decimals with few digits behind the point."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from sfumato.sample.constraint.language import Alt, Language, Repeat, Seq, chars, literal, seq

_DIGIT = chars("0123456789")
_MOST_DIGITS = 15  # before the point, where no bound asks for more: what a double holds exactly
_DECIMALS = 4  # behind it


@dataclass(frozen=True)
class Bounds:
    """What a number lies between; None = without a bound."""

    low: Fraction | None = None
    high: Fraction | None = None
    above: bool = False
    """The lower bound itself does not belong."""
    below: bool = False

    @property
    def empty(self) -> bool:
        """Whether no number fits."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.above or self.below))

    def whole(self, scale: int = 1) -> tuple[int, int]:
        """The first and the last whole number that, divided by the scale, fit."""
        low = -(10**_MOST_DIGITS - 1) * scale if self.low is None else math.ceil(self.low * scale)
        high = (10**_MOST_DIGITS - 1) * scale if self.high is None else math.floor(self.high * scale)
        if self.low is not None:
            low += self.above and low == self.low * scale
            high = max(high, 10 * abs(low)) if self.high is None else high
        if self.high is not None:
            high -= self.below and high == self.high * scale
            low = min(low, -10 * abs(high)) if self.low is None else low
        return low, high


def integers(bounds: Bounds) -> Language:
    """Whole numbers within bounds; of those without one as many digits as a double holds."""
    if bounds == Bounds():
        more = seq(chars("123456789"), Repeat(_DIGIT, 0, _MOST_DIGITS - 1))
        return seq(Repeat(chars("-"), 0, 1), Alt((chars("0"), more)))
    return Alt(tuple(_scaled(*bounds.whole(), 0)))


def numbers(bounds: Bounds) -> Language:
    """Whole numbers and decimals within bounds."""
    if bounds == Bounds():
        return seq(integers(bounds), Repeat(seq(".", Repeat(_DIGIT, 1, _DECIMALS)), 0, 1))
    given = [1, *(len(str(bound.denominator)) for bound in (bounds.low, bounds.high) if bound is not None)]
    places = max(_DECIMALS, min(max(given), 2 * _DECIMALS))
    ways = [*_scaled(*bounds.whole(), 0)]
    for decimals in range(1, places + 1):
        ways += _scaled(*bounds.whole(10**decimals), decimals)
    return Alt(tuple(ways))


def _scaled(low: int, high: int, decimals: int) -> Iterator[Language]:
    """The numbers from low to high, the point being so many digits from the right."""
    if low > high:
        return
    if low < 0:
        for way in _positive(max(1, -high), -low, decimals):
            yield seq("-", way)
    if high >= 0:
        yield from _positive(max(0, low), high, decimals)


def _positive(low: int, high: int, decimals: int) -> Iterator[Language]:
    for length in range(max(decimals + 1, len(str(low))), max(decimals + 1, len(str(high))) + 1):
        first = max(low, 10 ** (length - 1) if length > decimals + 1 else 0)
        last = min(high, 10**length - 1)
        if first <= last:
            yield _between(_written(first, length, decimals), _written(last, length, decimals))


def _written(number: int, length: int, decimals: int) -> str:
    text = str(number).zfill(length)
    return f"{text[:-decimals]}.{text[-decimals:]}" if decimals else text


def _between(low: str, high: str) -> Language:
    """The numerals of one length from low to high."""
    if not low:
        return Seq()
    if not low.strip("0.") and not high.strip("9."):
        return _any_digits(low)
    if low[0] == high[0]:
        return seq(low[0], _between(low[1:], high[1:]))
    zeros, nines = low[1:].translate(_ALL_ZERO), low[1:].translate(_ALL_NINE)
    ways = [seq(low[0], _between(low[1:], nines)), seq(high[0], _between(zeros, high[1:]))]
    if inner := "0123456789"[int(low[0]) + 1 : int(high[0])]:
        ways.append(seq(chars(inner), _any_digits(low[1:])))
    return Alt(tuple(ways))


_ALL_ZERO = {ord(digit): "0" for digit in "123456789"}
_ALL_NINE = {ord(digit): "9" for digit in "012345678"}


def _any_digits(shape: str) -> Language:
    before, point, behind = shape.partition(".")
    parts = [Repeat(_DIGIT, len(before), len(before)), literal(point), Repeat(_DIGIT, len(behind), len(behind))]
    return Seq(tuple(parts))
