"""The law of the loss: L(N, D) = E + A / N^alpha + B / D^beta, in nats a token.

N is the number of parameters without the embeddings, D that of the tokens read, E what no model of the kind learns. The
fit minimises the Huber loss of the logarithms, from many starts, as Hoffmann et al. 2022 (2203.15556, section 3.3 and
appendix D.3) do; its intervals come from a bootstrap of the residuals, with the ladder itself held fixed.

Shape letters: P points, S starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

DELTA = 1e-3  # of the Huber loss, in log nats: beyond 0.1 % an error counts in proportion
EXPONENTS = (0.01, 2.0)  # what the fit may choose
FEWEST = 7  # points: two more than the law has numbers
DRAWS = 200  # of the bootstrap
LEVEL = 0.95  # of all intervals
SMALL = 0.02  # share of the loss that is as good as none


class LawError(ValueError):
    """Points that determine no law; one line."""


@dataclass(frozen=True)
class Point:
    """A finished training."""

    parameters: float
    tokens: float
    loss: float
    """Held-out nats a token."""


@dataclass(frozen=True)
class Law:
    """A fitted law. E, A, B, alpha and beta are those of the head of this file."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, parameters: Any, tokens: Any) -> Any:
        """Nats a token of a model with so many parameters after so many tokens; numbers or arrays."""
        return self.E + self.A * np.power(parameters, -self.alpha) + self.B * np.power(tokens, -self.beta)

    @property
    def size_exponent(self) -> float:
        """A of N(C) ~ C^a, the best size for a budget C ~ N D; that of the tokens is 1 - a."""
        return self.beta / (self.alpha + self.beta)


@dataclass(frozen=True)
class Interval:
    """A number, and where it lies with probability `LEVEL`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A law with what is known of its errors."""

    law: Law
    draws: tuple[Law, ...]
    """Laws of resampled losses."""
    residuals: tuple[float, ...]
    """Of the points, in log nats, enlarged for the numbers that were fitted."""
    notes: tuple[str, ...]
    """What the points do not determine, in words."""

    def interval(self, figure: str) -> Interval:
        """Of a number or property of the law, such as "alpha"."""
        return interval(getattr(self.law, figure), [getattr(draw, figure) for draw in self.draws])

    def predict(self, parameters: float, tokens: float, seed: int = 0) -> Interval:
        """The loss of one training that was not fitted: the law's own error, and the scatter of a single training."""
        value = float(self.law(parameters, tokens))
        scatter = np.random.default_rng(seed).choice(np.array(self.residuals), len(self.draws))
        losses = [float(draw(parameters, tokens)) * math.exp(r) for draw, r in zip(self.draws, scatter, strict=True)]
        return interval(value, losses)


def interval(value: float, draws: Sequence[float]) -> Interval:
    """The middle `LEVEL` of the draws."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.array(draws), [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def fit(points: Sequence[Point], *, draws: int = DRAWS, seed: int = 0) -> Fit:
    """The law of some trainings, with intervals.

    Args:
        points: all of one kind of model.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        LawError: too few points, or all of one size or one length.
    """
    _check(points)
    n_P, d_P, loss_P = (np.array([getattr(p, name) for p in points]) for name in ("parameters", "tokens", "loss"))
    problem = _Problem(np.log(n_P), np.log(d_P))
    best = problem.solve(np.log(loss_P), _starts(loss_P))
    law = problem.law(best)
    fitted_P = np.log(law(n_P, d_P))
    residual_P = (np.log(loss_P) - fitted_P) * math.sqrt(len(points) / (len(points) - 5))
    residual_P -= residual_P.mean()
    random = np.random.default_rng(seed)
    laws = []
    for _ in range(draws):
        loss_again_P = fitted_P + random.choice(residual_P, len(points))
        laws.append(problem.law(problem.solve(loss_again_P, [best])))
    found = Fit(law, tuple(laws), tuple(residual_P.tolist()), ())
    return Fit(law, found.draws, found.residuals, tuple(_notes(found, points)))


def _check(points: Sequence[Point]) -> None:
    sizes, lengths = len({p.parameters for p in points}), len({p.tokens for p in points})
    if len(points) < FEWEST or min(sizes, lengths) < 3:
        raise LawError(
            f"too few rungs for a law: {len(points)} with {sizes} sizes and {lengths} lengths, expected at least "
            f"{FEWEST} with 3 of each; give more --budgets or --sizes"
        )


class _Problem:
    """The fit in coordinates in which all numbers are about 1: sizes and lengths count from their means."""

    def __init__(self, log_n_P: np.ndarray, log_d_P: np.ndarray):
        self.centre_n, self.centre_d = log_n_P.mean(), log_d_P.mean()
        self.n_P, self.d_P = log_n_P - self.centre_n, log_d_P - self.centre_d

    def solve(self, log_loss_P: np.ndarray, starts: Sequence[np.ndarray]) -> np.ndarray:
        """The best of all starts: log E, log A', log B', alpha, beta, with A' and B' at the mean size and length."""
        from scipy.optimize import minimize

        top = float(log_loss_P.max())
        bounds = [(top - 7, float(log_loss_P.min())), (top - 12, top), (top - 12, top), EXPONENTS, EXPONENTS]
        low, high = np.array(bounds).T
        found = [
            minimize(self._loss, np.clip(start, low, high), (log_loss_P,), "L-BFGS-B", jac=True, bounds=bounds)
            for start in starts
        ]
        return min(found, key=lambda one: one.fun).x

    def _loss(self, x: np.ndarray, log_loss_P: np.ndarray) -> tuple[float, np.ndarray]:
        """Huber loss in units of DELTA, and its gradient."""
        terms = np.stack((np.full_like(self.n_P, x[0]), x[1] - x[3] * self.n_P, x[2] - x[4] * self.d_P))
        total_P = np.logaddexp.reduce(terms, axis=0)
        share = np.exp(terms - total_P)
        error_P = (total_P - log_loss_P) / DELTA
        clipped_P = np.clip(error_P, -1, 1)
        value = float((clipped_P * error_P - clipped_P**2 / 2).mean())
        slope = share * (clipped_P / DELTA / len(error_P))
        sums = slope.sum(axis=1)
        return value, np.array([*sums, -(slope[1] * self.n_P).sum(), -(slope[2] * self.d_P).sum()])

    def law(self, x: np.ndarray) -> Law:
        """In the usual coordinates."""
        e, a, b, alpha, beta = (float(v) for v in x)
        return Law(math.exp(e), math.exp(a + alpha * self.centre_n), math.exp(b + beta * self.centre_d), alpha, beta)


def _starts(loss_P: np.ndarray) -> list[np.ndarray]:
    """A grid: how the mean loss is shared among the three terms, and the exponents."""
    shares = [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.5, 0.4, 0.1), (0.5, 0.1, 0.4), (0.2, 0.4, 0.4)]
    middle = math.log(float(loss_P.mean()))
    grid = product(shares, (0.15, 0.4, 1.0), (0.15, 0.4, 1.0))
    return [np.array([*(middle + math.log(s) for s in share), alpha, beta]) for share, alpha, beta in grid]


def _notes(found: Fit, points: Sequence[Point]) -> list[str]:
    """What the points leave open."""
    law, least = found.law, min(p.loss for p in points)
    size = law.A * min(p.parameters for p in points) ** -law.alpha
    length = law.B * min(p.tokens for p in points) ** -law.beta
    notes = []
    for name, of, term in (("alpha", "size", size), ("beta", "length", length)):
        value, spread = getattr(law, name), found.interval(name)
        if not EXPONENTS[0] * 1.01 < value < EXPONENTS[1] * 0.99:
            notes.append(f"{name} is at its bound ({value:.2f}): these rungs do not say how the loss falls with {of}")
        elif term < SMALL * least:
            notes.append(f"{name} means little: the loss of these rungs hardly depends on {of}")
        elif spread.high / spread.low > 3:
            notes.append(f"{name} is known to within a factor of {spread.high / spread.low:.0f} only")
    spread = found.interval("E")
    if law.E < SMALL * least:
        notes.append("E is about 0: these rungs are too far from the end of the curve to see it")
    elif spread.high - spread.low > 0.3 * least:
        notes.append(f"E lies anywhere from {spread.low:.2f} to {spread.high:.2f}: do not extrapolate far")
    return notes
