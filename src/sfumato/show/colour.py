"""Confidence as a colour: from orange (a guess) over olive to teal (certain).

Equal steps in probability look like equal steps in colour, and all are equally light: readable on black and on white.
The ends differ in blue against yellow, so they stay apart for readers who see no red or no green.

Source of the colour space: Ottosson 2020, "A perceptual color space for image processing" (OKLab).
"""

import math
from functools import cache

_LIGHTNESS = 0.62
_HUES = (35.0, 215.0)  # degrees in OKLCh: orange, teal
_CHROMAS = (0.165, 0.105)
_STEPS = 20
_BASIC = ("red", "yellow", "green", "cyan")


def confidence_colour(probability: float, basic: bool = False) -> str:
    """The colour of a probability from 0 to 1: `#rrggbb`, or one that a terminal with few colours has by name."""
    probability = min(1.0, max(0.0, probability))
    if basic:
        return _BASIC[min(int(probability * len(_BASIC)), len(_BASIC) - 1)]
    return _colour(round(probability * _STEPS))


@cache
def _colour(step: int) -> str:
    x = step / _STEPS
    hue = math.radians(_HUES[0] + x * (_HUES[1] - _HUES[0]))
    chroma = _CHROMAS[0] + x * (_CHROMAS[1] - _CHROMAS[0])
    while True:
        rgb = _linear_rgb(_LIGHTNESS, chroma * math.cos(hue), chroma * math.sin(hue))
        if all(-1e-6 <= channel <= 1 for channel in rgb):
            return "#" + "".join(f"{_gamma(channel):02x}" for channel in rgb)
        chroma *= 0.98  # what a screen cannot show is shown as vivid as it can


def _linear_rgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """OKLab to linear sRGB."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(channel: float) -> int:
    """A linear channel as an sRGB byte."""
    channel = max(0.0, channel)
    return round(255 * (12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055))
