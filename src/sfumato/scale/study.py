"""What a ladder says: the law of each kind of model, its best sizes, and how well it predicts what it has not seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from sfumato.config import Recipe
from sfumato.scale.isoflop import Valleys, valleys
from sfumato.scale.ladder import KINDS, Rung, Shape, shapes
from sfumato.scale.law import DRAWS, Fit, Interval, Law, LawError, Point, fit, interval
from sfumato.scale.trials import Outcome

LOG_MOST = 700.0  # the logarithm of numbers that are as good as infinite, since a float holds no larger ones
LARGEST = 32.0  # how many times the largest rung's parameters a network for a budget may have


@dataclass(frozen=True)
class Result:
    """A training of the ladder, done."""

    rung: Rung
    outcome: Outcome

    @property
    def point(self) -> Point:
        """As the law sees it."""
        return Point(self.rung.parameters, self.rung.tokens, self.outcome.nats_per_token)


@dataclass(frozen=True)
class Prediction:
    """What the law said of a training that it was not fitted to, and what came out."""

    rung: Rung
    predicted: Interval
    """Nats a token."""
    measured: float

    @property
    def error(self) -> float:
        """Relative, of the prediction."""
        return self.predicted.value / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds what came out."""
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclass(frozen=True)
class Kind:
    """What is known of one kind of model."""

    name: str
    results: tuple[Result, ...]
    valleys: Valleys
    fit: Fit | None
    why: str
    """Why there is no law; else empty."""
    predictions: tuple[Prediction, ...]

    @property
    def fitted(self) -> list[Result]:
        """The trainings that the law was fitted to."""
        return [result for result in self.results if result.rung.fitted]


def study(results: Sequence[Result], *, draws: int = DRAWS, seed: int = 0) -> dict[str, Kind]:
    """Everything by kind, in the order of `KINDS`.

    Args:
        results: of the trainings that are done.
        draws: of each bootstrap.
        seed: of each bootstrap.
    """
    kinds = [kind for kind in KINDS if any(result.rung.kind == kind for result in results)]
    return {kind: _kind(kind, [r for r in results if r.rung.kind == kind], draws, seed) for kind in kinds}


def _kind(name: str, results: list[Result], draws: int, seed: int) -> Kind:
    fitted = [result for result in results if result.rung.fitted]
    groups: dict[float, list[Point]] = {}
    for result in fitted:
        groups.setdefault(result.rung.budget, []).append(result.point)
    found, why = None, ""
    try:
        found = fit([result.point for result in fitted], draws=draws, seed=seed)
    except LawError as error:
        why = str(error)
    checked = [r for r in results if not r.rung.fitted]
    predictions = [_prediction(found, result, seed) for result in checked] if found else []
    return Kind(name, tuple(results), valleys(groups, draws=draws, seed=seed), found, why, tuple(predictions))


def _prediction(found: Fit, result: Result, seed: int) -> Prediction:
    point = result.point
    return Prediction(result.rung, found.predict(point.parameters, point.tokens, seed), point.loss)


class Frontier:
    """The least loss for a budget, over the networks that a recipe's proportions allow."""

    def __init__(self, recipe: Recipe, kind: str, vocab_size: int, largest: float):
        """Networks of the kind up to so many parameters."""
        family: list[Shape] = list(
            takewhile(lambda shape: shape.parameters <= largest, shapes(recipe, kind, vocab_size))
        )
        self._parameters = np.array([shape.parameters for shape in family], float)
        self._cost = np.array([shape.flops_per_token for shape in family])

    def loss(self, law: Law, budget: float) -> float:
        """Nats a token of the best network."""
        return float(law(self._parameters, budget / self._cost).min())

    def budget(self, law: Law, loss: float, low: float = 1e6, high: float = 1e24) -> float:
        """FLOPs for this loss; infinite where `high` does not do. By bisection of the logarithm."""
        if self.loss(law, high) > loss:
            return math.inf
        a, b = math.log(low), math.log(high)
        for _ in range(60):
            middle = (a + b) / 2
            a, b = (middle, b) if self.loss(law, math.exp(middle)) > loss else (a, middle)
        return math.exp(b)


@dataclass(frozen=True)
class Comparison:
    """What a kind of model needs to reach the autoregressive twin's loss."""

    kind: str
    at: str
    """What both have: tokens, or the best use of FLOPs."""
    amount: float
    """Of tokens or FLOPs of the twin."""
    parameters: float
    """Of the twin, where tokens are equal; else 0."""
    factor: Interval
    """How many times the twin's parameters (equal tokens) or FLOPs; infinite = its law never gets there."""
    extrapolated: bool
    """Whether that is more than the largest training of the kind had."""


def comparisons(kinds: Mapping[str, Kind], frontiers: Mapping[str, Frontier]) -> list[Comparison]:
    """Masked and block against the twin: parameters at equal tokens, FLOPs at equal loss; without a twin, nothing."""
    twin = kinds.get("ar")
    if twin is None or twin.fit is None:
        return []
    tokens, parameters = _middle(twin, "tokens"), _middle(twin, "parameters")
    budget = max(result.rung.budget for result in twin.fitted)
    found = []
    for name, kind in kinds.items():
        if name == "ar" or kind.fit is None:
            continue
        pairs = [(kind.fit.law, twin.fit.law), *zip(kind.fit.draws, twin.fit.draws, strict=True)]
        sizes = [_size_factor(own, other, parameters, tokens) for own, other in pairs]
        costs = [frontiers[name].budget(own, frontiers["ar"].loss(other, budget)) / budget for own, other in pairs]
        most = {of: max(getattr(r.rung, of) for r in kind.results) for of in ("parameters", "flops")}
        far = sizes[0] * parameters > most["parameters"]
        found.append(Comparison(name, "tokens", tokens, parameters, _ordered(sizes), far))
        far = costs[0] * budget > most["flops"]
        found.append(Comparison(name, "flops", budget, 0.0, _ordered(costs), far))
    return found


def _middle(kind: Kind, name: str) -> float:
    return math.exp(sum(math.log(getattr(r.rung, name)) for r in kind.fitted) / len(kind.fitted))


def _size_factor(own: Law, twin: Law, parameters: float, tokens: float) -> float:
    """Solve own(factor * N, D) = twin(N, D)."""
    rest = float(twin(parameters, tokens)) - own.E - own.B * tokens**-own.beta
    if rest <= 0:
        return math.inf
    log_factor = math.log(own.A / rest) / own.alpha - math.log(parameters)
    return math.exp(log_factor) if log_factor < LOG_MOST else math.inf


def _ordered(values: list[float]) -> Interval:
    """As `interval`, for values that may be infinite: by rank, without arithmetic between them."""
    if all(map(math.isfinite, values)):
        return interval(values[0], values[1:])
    ranked = sorted(values[1:])
    tail = round(0.025 * (len(ranked) - 1))
    return Interval(values[0], ranked[tail], ranked[len(ranked) - 1 - tail])
