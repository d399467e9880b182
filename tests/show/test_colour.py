import itertools

import pytest

from sfumato.show.colour import confidence_colour


def rgb(probability: float) -> tuple[int, int, int]:
    colour = confidence_colour(probability)
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def luminance(colour: tuple[int, int, int]) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("probability", [i / 20 for i in range(21)])
def test_every_colour_is_readable_on_black_and_on_white(probability: float):
    light = luminance(rgb(probability))
    assert (light + 0.05) / 0.05 > 4.5 and 1.05 / (light + 0.05) > 3


def test_a_guess_is_warm_and_certainty_cool():
    guess, sure = rgb(0.0), rgb(1.0)
    assert guess[0] > 2 * guess[2] and sure[2] > 2 * sure[0]


def test_the_colours_of_neighbours_are_close_and_of_the_ends_far():
    scale = [rgb(i / 20) for i in range(21)]
    steps = [sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(scale)]
    assert 0 < min(steps) and max(steps) < 60 < sum(abs(a - b) for a, b in zip(scale[0], scale[-1], strict=True))


def test_a_terminal_with_few_colours_has_them_in_the_same_order():
    assert [confidence_colour(p, basic=True) for p in (0, 0.3, 0.6, 0.9, 1)] == [
        "red",
        "yellow",
        "green",
        "cyan",
        "cyan",
    ]


def test_what_is_no_probability_is_taken_for_the_nearest():
    assert (confidence_colour(-0.1), confidence_colour(1.5)) == (confidence_colour(0), confidence_colour(1))
