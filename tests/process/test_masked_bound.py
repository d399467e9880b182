"""The bound of masked diffusion against the truth: with exact conditionals it is the entropy, and never below it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle import LENGTH, MASK, Oracle
from torch import Tensor

from sfumato.process import Cosine, Linear, LogLinear, Masked, Schedule

SCHEDULES = pytest.mark.parametrize("schedule", [Linear(), Cosine(), LogLinear()], ids=lambda s: s.name)


def integral(schedule: Schedule, costs) -> float:
    """The exact bound: Gauss-Legendre over t, in the two pieces that a jump of the schedule may leave."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(40))
    total, jump = 0.0, 1 - getattr(schedule, "eps", 0.5)
    for begin, end in ((0.0, jump), (jump, 1.0)):
        t = begin + (end - begin) * (nodes + 1) / 2
        alpha = schedule.alpha(t)
        total += float((weights * costs.bound(alpha, -schedule.dalpha(t) / (1 - alpha))).sum()) * (end - begin) / 2
    return total


def fixed_count(costs) -> float:
    """The exact bound of the other estimator: every count from 1 to 4 equally often, weight 4 / count."""
    means = [costs.nats_S[costs.size_S == k].mean() * LENGTH / k for k in range(1, LENGTH + 1)]
    return float(torch.stack(means).mean())


@SCHEDULES
def test_with_true_conditionals_the_bound_is_the_entropy(schedule: Schedule, oracle: Oracle, costs) -> None:
    bound = integral(schedule, costs(Masked(MASK, schedule)))
    if isinstance(schedule, LogLinear):  # its last step is a jump, so it is a bound and no equality
        assert oracle.entropy <= bound < oracle.entropy * (1 + 1e-3)
    else:
        assert bound == pytest.approx(oracle.entropy, abs=1e-9)


@pytest.mark.parametrize("eps", [0.3, 0.03, 0.003])
def test_the_log_linear_bound_is_never_below_the_entropy(eps: float, oracle: Oracle, costs) -> None:
    bound = integral(LogLinear(eps), costs(Masked(MASK, LogLinear(eps))))
    assert oracle.entropy < bound < oracle.entropy * (1 + eps)


def test_with_a_fixed_count_the_bound_is_the_entropy_too(oracle: Oracle, costs) -> None:
    assert fixed_count(costs(Masked(MASK, objective="count"))) == pytest.approx(oracle.entropy, abs=1e-9)


@pytest.mark.parametrize("sharpness", [0.3, 0.9, 1.2, 2.0])
def test_for_a_wrong_network_the_estimators_agree_and_stay_above_the_entropy(
    sharpness: float, oracle: Oracle, costs
) -> None:
    wrong = costs(Masked(MASK), sharpness)
    linear, cosine = integral(Linear(), wrong), integral(Cosine(), wrong)
    assert linear == pytest.approx(cosine, abs=1e-9)
    assert linear == pytest.approx(fixed_count(wrong), abs=1e-9)
    assert linear > oracle.entropy


@pytest.mark.parametrize(
    "process",
    [Masked(MASK, Linear()), Masked(MASK, Cosine()), Masked(MASK, LogLinear()), Masked(MASK, objective="count")],
    ids=["linear", "cosine", "log-linear", "count"],
)
def test_monte_carlo_through_corrupt_finds_the_entropy(
    process: Masked, oracle: Oracle, estimate: Callable[..., Tensor]
) -> None:
    rows = 1 << 15
    nats_B = estimate(process, rows)
    stderr = float(nats_B.std()) / math.sqrt(rows)
    assert abs(float(nats_B.mean()) - oracle.entropy) < 4 * stderr
    assert stderr < 0.02 * oracle.entropy


def test_the_bound_does_not_depend_on_the_objective_that_is_trained(oracle: Oracle, estimate) -> None:
    assert torch.equal(estimate(Masked(MASK, objective="cross_entropy"), 256), estimate(Masked(MASK), 256))


def test_a_fixed_count_has_the_smaller_standard_deviation(estimate: Callable[..., Tensor]) -> None:
    counted, independent = (estimate(Masked(MASK, objective=name), 1 << 15).std() for name in ("count", "elbo"))
    assert counted < 0.8 * independent
