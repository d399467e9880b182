"""Numerals within bounds, against trying numbers out."""

import random
from fractions import Fraction

import pytest

from sfumato.sample.constraint.bytewise import determinised
from sfumato.sample.constraint.numerals import Bounds, integers, numbers


def taken(automaton, text: str) -> bool:
    state = 0
    for byte in text.encode():
        state = int(automaton.next_SB[state, byte])
        if state < 0:
            return False
    return bool(automaton.accepting_S[state])


@pytest.mark.parametrize("seed", range(30))
def test_just_the_integers_within_bounds(seed: int):
    random.seed(seed)
    size = 10 ** random.randrange(1, 5)
    low, high = sorted(random.randrange(-size, size) for _ in range(2))
    bounds = Bounds(Fraction(low), Fraction(high), above=seed % 2 == 1, below=seed % 3 == 1)
    machine = determinised(integers(bounds))
    fit = [n for n in range(low - 200, high + 200) if low + bounds.above <= n <= high - bounds.below]
    assert (machine is None) == (not fit)
    if machine is None:
        return
    for n in {*range(low - 200, low + 200), *range(high - 200, high + 200), 0, -0, 7, 10, 99}:
        assert taken(machine, str(n)) == (low + bounds.above <= n <= high - bounds.below), n
    for wrong in ("", "-", "00", "01", "-01", "1.0", "+1", "1e3"):
        assert not taken(machine, wrong)


@pytest.mark.parametrize(
    ("low", "high", "yes", "no"),
    [
        ("0", "1", ["0", "1", "0.5", "0.25", "1.0", "0.00"], ["1.1", "-0.1", "2", ".5", "00.5", "1.", "1.0001"]),
        ("-1.5", "2.25", ["-1.5", "2.25", "-0.5", "2", "-1"], ["-1.6", "2.26", "-1.51", "3"]),
        ("0.001", "0.002", ["0.001", "0.0015", "0.002"], ["0.0009", "0", "0.01", "0.0021"]),
        ("10", None, ["10", "10.5", "99999", "10.0"], ["9.9", "9", "-11"]),
        (None, "-3", ["-3", "-3.5", "-100.25"], ["-2.9", "0", "3"]),
        (None, None, ["0", "-5", "3.25", "123456789012345"], ["1e5", "01", ""]),
    ],
)
def test_decimals_within_bounds(low, high, yes, no):
    machine = determinised(numbers(Bounds(low and Fraction(low), high and Fraction(high))))
    assert [text for text in yes if not taken(machine, text)] == []
    assert [text for text in no if taken(machine, text)] == []


def test_a_bound_may_be_left_out():
    machine = determinised(numbers(Bounds(Fraction(0), Fraction(1), above=True, below=True)))
    assert taken(machine, "0.5") and taken(machine, "0.0001")
    assert not any(taken(machine, text) for text in ("0", "1", "0.0", "1.0", "0.0000"))
