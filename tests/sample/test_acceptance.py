"""Samplers that accept what they trust: factor and entropy bound, against naive loops, and by their laws."""

import math

import pytest
import torch
from decoding import ByPosition, Choices, Pattern, agree, law, masked_decoder, open_places, oracle_texts, watch
from oracle import LENGTH, Oracle

from sfumato import rng
from sfumato.canvas import Canvas, Window
from sfumato.process import Masked
from sfumato.sample.acceptance import Acceptance, Judged
from sfumato.sample.decoder import Request
from sfumato.sample.entropy_bounded import EntropyBounded
from sfumato.sample.factor import Factor

ROWS = 6_000


def nats(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q)


def by_factor(p: list[list[float]], places: list[int], factor: float) -> list[int]:
    best_first = sorted(places, key=lambda i: -max(p[i]))
    good = [n for n in range(1, len(places) + 1) if (n + 1) * (1 - max(p[best_first[n - 1]])) <= factor]
    return best_first[: max(good, default=1)]


def by_entropy(p: list[list[float]], places: list[int], bound: float) -> list[int]:
    rising = sorted(places, key=lambda i: nats(p[i]))
    good = [n for n in range(1, len(places) + 1) if sum(nats(p[i]) for i in rising[: n - 1]) <= bound]
    return rising[: max(good)]


def named(value: object) -> str:
    """Of a test, without the address of a function: every worker must find the same."""
    return str(value) if isinstance(value, Acceptance) else ""


RULES = [
    (Factor(0.5), lambda p, places: by_factor(p, places, 0.5)),
    (Factor(1.0), lambda p, places: by_factor(p, places, 1.0)),
    (EntropyBounded(0.3), lambda p, places: by_entropy(p, places, 0.3)),
    (EntropyBounded(0.9), lambda p, places: by_entropy(p, places, 0.9)),
]


@pytest.mark.parametrize(("sampler", "rule"), RULES, ids=named)
def test_the_law_is_that_of_the_rule(oracle: Oracle, sampler: Acceptance, rule):
    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        yield tuple(rule(p, open_places(pattern))), 1.0

    assert agree(oracle, oracle_texts(oracle, sampler, LENGTH, ROWS), law(oracle, LENGTH, choose))


@pytest.mark.parametrize("sampler", [Factor(0.0), EntropyBounded(0.0)], ids=named)
def test_where_nothing_may_be_lost_it_is_exact(oracle: Oracle, sampler: Acceptance):
    assert agree(oracle, oracle_texts(oracle, sampler, LENGTH, ROWS), oracle.probability_T)


@pytest.mark.parametrize(("sampler", "rule"), RULES, ids=named)
def test_many_rows_of_different_lengths_are_the_naive_loop(sampler: Acceptance, rule):
    rows, length = 40, 12
    logits_BLV = 6 * rng.uniform(torch.arange(rows * length * 5), 3).view(rows, length, 5)
    open_BL = rng.uniform(torch.arange(rows)[:, None], torch.arange(length)[None], 5) < 0.6
    open_BL[:, 0] = True
    position_BL = torch.arange(length).expand(rows, -1)
    levels = torch.ones(rows, dtype=torch.float64)
    canvas = Canvas(position_BL * 0, position_BL, open_BL, open_BL, levels)
    window = Window(torch.ones_like(open_BL), levels * (1 - 1e-6))  # a quota of 1
    index_N = open_BL.flatten().nonzero().flatten()
    chosen_N = sampler.chosen(
        Judged(logits_BLV.flatten(0, 1)[index_N], None, index_N, index_N[:rows]), canvas, window, Masked(0)
    )
    p = logits_BLV.softmax(-1).tolist()
    for row in range(rows):
        places = open_BL[row].nonzero().flatten().tolist()
        found = (index_N[chosen_N & (index_N // length == row)] % length).tolist()
        assert found == sorted(rule(p[row], places))


@pytest.mark.parametrize("sampler", [Factor(0.0), EntropyBounded(0.0)], ids=named)
def test_at_least_the_quota_is_written(sampler: Acceptance):
    table = torch.tensor([[-math.inf, -math.inf, 1.0, 0.5 + i / 10] for i in range(6)])
    events = watch(masked_decoder(ByPosition(table)), [Request([0] * 6, [True] * 6, sampler, 2, trace=True)])
    assert [len(event.commits) for event in events] == [3, 3]


@pytest.mark.parametrize("sampler", [Factor(1.0), EntropyBounded(0.1)], ids=named)
def test_what_is_certain_is_written_at_once(sampler: Acceptance):
    table = torch.tensor([[-math.inf, -math.inf, 50.0, 0.0]] * 9)
    assert len(watch(masked_decoder(ByPosition(table)), [Request([0] * 9, [True] * 9, sampler, 9, trace=True)])) == 1
