"""The best size for a budget, read off the ladder without a law: a parabola through each group of equal FLOPs.

Source: Hoffmann et al. 2022 (2203.15556, section 3.2, "approach 2"). Intervals come from a bootstrap of the residuals.

Shape letters: P points of a group.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.scale.law import DRAWS, Interval, Point, interval

FEWEST = 4  # sizes in a group: one more than a parabola has numbers


@dataclass(frozen=True)
class Valley:
    """The parabola of one budget: the loss over the logarithm of the size."""

    budget: float
    coefficients: tuple[float, float, float]
    """Of log N squared, log N and 1."""
    low: float
    high: float
    """The smallest and the largest size that was tried."""

    @property
    def best(self) -> float | None:
        """The size of the least loss; None where the parabola has no minimum among the sizes tried."""
        square, slope, _ = self.coefficients
        if square <= 0:
            return None
        found = math.exp(-slope / (2 * square)) if abs(slope) < 100 * square else math.inf
        return found if self.low <= found <= self.high else None

    def loss(self, parameters: float) -> float:
        """Nats a token on the parabola."""
        return float(np.polyval(self.coefficients, math.log(parameters)))


@dataclass(frozen=True)
class Valleys:
    """The parabolas of all budgets, and what they say about larger ones."""

    groups: tuple[Valley, ...]
    exponent: Interval | None
    """a of N(C) ~ C^a; None where fewer than two budgets have a minimum."""
    notes: tuple[str, ...]


def valleys(groups: Mapping[float, Sequence[Point]], *, draws: int = DRAWS, seed: int = 0) -> Valleys:
    """A parabola for each budget with sizes enough, and the power law of their minima.

    Args:
        groups: the points of each budget.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    full = {c: points for c, points in sorted(groups.items()) if len({p.parameters for p in points}) >= FEWEST}
    notes = [f"budget {c:.3g}: fewer than {FEWEST} sizes, no parabola" for c in sorted(groups) if c not in full]
    found = [_valley(c, points, [p.loss for p in points]) for c, points in full.items()]
    notes += [f"budget {v.budget:.3g}: {_why(v)}" for v in found if v.best is None]
    value = _exponent(found)
    if value is None:
        return Valleys(tuple(found), None, tuple(notes))
    smooth = {v.budget: [v.loss(p.parameters) for p in full[v.budget]] for v in found}
    residuals = np.concatenate(
        [
            (np.array([p.loss for p in points]) - smooth[c]) * math.sqrt(len(points) / max(1, len(points) - 3))
            for c, points in full.items()
        ]
    )
    random, again = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = []
        for c, points in full.items():
            losses = smooth[c] + random.choice(residuals, len(points))
            drawn.append(_valley(c, points, losses.tolist()))
        exponent = _exponent(drawn)
        if exponent is not None:
            again.append(exponent)
    if len(again) < draws * 0.9:
        notes.append(
            f"the minimum is lost in {1 - len(again) / draws:.0%} of the bootstrap: a flat or one-sided valley"
        )
    return Valleys(tuple(found), interval(value, again or [value]), tuple(notes))


def _valley(budget: float, points: Sequence[Point], losses: Sequence[float]) -> Valley:
    sizes_P = np.array([p.parameters for p in points], float)
    # About the middle, so that the numbers stay small; then moved back to log N itself.
    centre = float(np.log(sizes_P).mean())
    square, slope, level = np.polyfit(np.log(sizes_P) - centre, losses, 2)
    square, slope, level = float(square), float(slope), float(level)
    moved = (square, slope - 2 * square * centre, level - slope * centre + square * centre**2)
    return Valley(budget, moved, float(sizes_P.min()), float(sizes_P.max()))


def _why(valley: Valley) -> str:
    if valley.coefficients[0] <= 0:
        return "the losses have no minimum"
    down = valley.loss(valley.low) > valley.loss(valley.high)
    return f"the best size is {'larger' if down else 'smaller'} than all that were tried; {_remedy(down)}"


def _remedy(down: bool) -> str:
    return "lower the first of --ratios" if down else "raise the second of --ratios"


def _exponent(found: Sequence[Valley]) -> float | None:
    """The slope of log N over log C through the minima."""
    minima = [(math.log(v.budget), math.log(v.best)) for v in found if v.best is not None]
    if len(minima) < 2:
        return None
    budgets, sizes = zip(*minima, strict=True)
    return float(np.polyfit(budgets, sizes, 1)[0])
