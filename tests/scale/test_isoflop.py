"""The minima of the parabolas are those of the law, and what has none says so."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from sfumato.scale.isoflop import valleys
from sfumato.scale.law import Point

Drawn = Callable[..., list[Point]]


def groups(points: list[Point]) -> dict[float, list[Point]]:
    return {budget: points[5 * i : 5 * i + 5] for i, budget in enumerate((1e11, 4e11, 1.6e12, 6.4e12))}


def test_a_parabola_is_found_again():
    sizes = [1e4, 3e4, 1e5, 3e5, 1e6]
    exact = {
        budget: [Point(n, budget / n, 3 + 0.1 * (math.log(n) - 0.5 * math.log(budget) + 1) ** 2) for n in sizes]
        for budget in (1e10, 1e11)
    }
    found = valleys(exact, draws=5)
    assert [valley.best for valley in found.groups] == [pytest.approx(math.exp(-1) * c**0.5) for c in exact]
    assert found.exponent is not None and found.exponent.value == pytest.approx(0.5) and found.notes == ()
    assert found.groups[0].loss(1e4) == pytest.approx(exact[1e10][0].loss)


def test_the_exponent_is_near_that_of_the_law(drawn: Drawn):
    found = valleys(groups(drawn(0.002, 3)), draws=50)
    assert found.exponent is not None
    assert found.exponent.low <= 0.4 / 0.75 <= found.exponent.high
    assert found.exponent.high - found.exponent.low < 0.4


def test_what_has_no_minimum_says_where_it_lies(drawn: Drawn):
    falling = {c: [replace(p, loss=9 - i - i * i / 20) for i, p in enumerate(ps)] for c, ps in groups(drawn()).items()}
    found = valleys(falling, draws=5)
    assert found.exponent is None and all(valley.best is None for valley in found.groups)
    assert all("the losses have no minimum" in note for note in found.notes)
    flatter = {c: [replace(p, loss=9 - i + i * i / 20) for i, p in enumerate(ps)] for c, ps in groups(drawn()).items()}
    (note, *_) = valleys(flatter, draws=5).notes
    assert note == "budget 1e+11: the best size is larger than all that were tried; lower the first of --ratios"
    turned = {c: [replace(p, loss=9 + i + i * i / 20) for i, p in enumerate(ps)] for c, ps in groups(drawn()).items()}
    assert "is smaller than all that were tried; raise the second" in valleys(turned, draws=5).notes[0]


def test_too_few_sizes_make_no_parabola(drawn: Drawn):
    found = valleys({1e11: drawn()[:3]}, draws=5)
    assert found.groups == () and found.notes == ("budget 1e+11: fewer than 4 sizes, no parabola",)
