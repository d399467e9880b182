"""From losses of known laws: the law, predictions, best sizes and comparisons that follow from it."""

import json
import math
from dataclasses import replace

import pytest

from sfumato.config import Recipe
from sfumato.scale.ladder import Rung, ladder
from sfumato.scale.law import Law
from sfumato.scale.record import page, record
from sfumato.scale.study import Frontier, Result, comparisons, study
from sfumato.scale.trials import Outcome

TWIN = Law(E=1.5, A=20.0, B=200.0, alpha=0.35, beta=0.4)
ABOUT = {"name": "x", "trainings": 40, "machine": "m", "date": "d", "bits_per_byte_per_nat": 0.5}
LAWS = {"ar": TWIN, "masked": replace(TWIN, A=20.0 * 4**0.35)}  # four times the parameters at equal tokens


@pytest.fixture(scope="module")
def results(recipe: Recipe) -> list[Result]:
    rungs = ladder(
        recipe,
        300,
        kinds=("masked", "ar"),
        budgets=(3e9, 1e10, 3e10),
        check=(1e11,),
        ratios=(2, 60),
        sizes=5,
        seeds=(0,),
    )
    return [Result(rung, outcome(rung, i)) for i, rung in enumerate(rungs)]


def outcome(rung: Rung, i: int) -> Outcome:
    loss = float(LAWS[rung.kind](rung.parameters, rung.tokens)) * (1 + 1e-3 * math.sin(7 * i))
    return Outcome(loss, loss / 2, 0.01, "bound", 1.0, 0.5, 0, "a machine")


def test_a_ladder_of_a_known_law_is_understood(results: list[Result], recipe: Recipe):
    kinds = study(results, draws=12)
    assert list(kinds) == ["masked", "ar"]
    for name, kind in kinds.items():
        assert kind.fit and not kind.why
        (prediction,) = kind.predictions
        assert abs(prediction.error) < 0.01 and prediction.rung.budget == 1e11
        assert prediction.measured == pytest.approx(
            float(LAWS[name](prediction.rung.parameters, prediction.rung.tokens)), rel=2e-3
        )
    frontiers = {name: Frontier(recipe, name, 300, 1e6) for name in kinds}
    sizes, costs = comparisons(kinds, frontiers)
    assert (sizes.at, costs.at) == ("tokens", "flops")
    assert sizes.factor.low * 0.8 < 4 < sizes.factor.high * 1.2 and sizes.factor.value == pytest.approx(4, rel=0.35)
    assert costs.factor.value > 1
    about = {"name": "x", "trainings": len(results), "machine": "m", "date": "d", "bits_per_byte_per_nat": 0.5}
    content = json.loads(json.dumps(record(about, kinds, [sizes, costs]), allow_nan=False))
    assert len(content["rungs"]) == len(results) and content["kinds"]["ar"]["predictions"][0]["rung"].startswith(
        "ar-1e11"
    )
    text = page(about, kinds, [sizes, costs])
    assert f"{len(results)} of {len(results)} trainings" in text and "| AR twin | 1e+11" in text.replace(
        "9.99e+10", "1e+11"
    )


def test_the_frontier_is_the_best_network_and_its_inverse(recipe: Recipe):
    frontier = Frontier(recipe, "ar", 300, 1e6)
    losses = [frontier.loss(TWIN, budget) for budget in (1e9, 1e10, 1e11)]
    assert losses == sorted(losses, reverse=True) and losses[-1] > TWIN.E
    assert frontier.budget(TWIN, losses[1]) == pytest.approx(1e10, rel=1e-3)
    assert frontier.budget(TWIN, TWIN.E) == math.inf


def test_few_rungs_have_no_law_but_a_reason(results: list[Result]):
    (kind,) = study([r for r in results if r.rung.kind == "ar"][:4], draws=2).values()
    assert kind.fit is None and "too few rungs for a law: 4" in kind.why and kind.predictions == ()
    assert "- AR twin: too few rungs" in page(ABOUT, {"ar": kind}, [])


def test_what_a_law_never_reaches_is_said(results: list[Result], recipe: Recipe):
    worse = [raised(r) if r.rung.kind == "masked" else r for r in results]
    kinds = study(worse, draws=4)
    sizes, costs = comparisons(kinds, {name: Frontier(recipe, name, 300, 1e6) for name in kinds})
    assert sizes.factor.value == math.inf and costs.factor.value == math.inf
    assert record({}, kinds, [sizes, costs])["comparisons"][0]["factor"]["value"] is None
    assert "no number of parameters is enough" in page(ABOUT, kinds, [sizes, costs])


def test_more_parameters_than_a_float_can_count_are_no_number_of_them(results: list[Result], recipe: Recipe):
    kinds = study(results, draws=2)
    fit, twin = kinds["masked"].fit, kinds["ar"].fit
    assert fit and twin
    rung = kinds["ar"].fitted[0].rung
    slow = Law(E=0.0, A=20.0, B=1e-9, alpha=0.01, beta=0.4)  # whose exponent is at its bound
    kinds["masked"] = replace(kinds["masked"], fit=replace(fit, law=slow))
    kinds["ar"] = replace(kinds["ar"], fit=replace(twin, law=replace(TWIN, E=1e-4, A=1e-3, B=1e-3)))
    frontiers = {name: Frontier(recipe, name, 300, 10.0 * rung.parameters) for name in kinds}
    assert comparisons(kinds, frontiers)[0].factor.value == math.inf


def raised(result: Result) -> Result:
    return replace(result, outcome=replace(result.outcome, nats_per_token=result.outcome.nats_per_token + 9))
