"""Threshold sampling writes exactly what is sure enough, and at least the quota."""

import math

import pytest
import torch
from decoding import (
    ByPosition,
    Choices,
    Pattern,
    agree,
    finish,
    law,
    masked_decoder,
    open_places,
    oracle_texts,
    small_decoder,
    watch,
)
from oracle import LENGTH, Oracle

from sfumato.sample.decoder import Request
from sfumato.sample.order import Order
from sfumato.sample.threshold import Threshold

ROWS = 6_000


def threshold_law(oracle: Oracle, threshold: float, counts: list[int]) -> torch.Tensor:
    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        best_first = sorted(open_places(pattern), key=lambda i: -max(p[i]))
        yield tuple(i for r, i in enumerate(best_first) if r < counts[step] or max(p[i]) >= threshold), 1.0

    return law(oracle, len(counts), choose)


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_the_law_is_that_of_the_rule(oracle: Oracle, threshold: float):
    texts_BL = oracle_texts(oracle, Threshold(threshold), LENGTH, ROWS)
    # The decoder's quota is one a step here whatever was written before: 4 steps for at most 4 tokens.
    assert agree(oracle, texts_BL, threshold_law(oracle, threshold, [1] * LENGTH))
    assert not agree(oracle, texts_BL, threshold_law(oracle, 1.0, [1] * LENGTH))


def test_with_threshold_1_it_is_exact_one_token_a_step(oracle: Oracle):
    assert agree(oracle, oracle_texts(oracle, Threshold(1.0), LENGTH, ROWS), oracle.probability_T)


@pytest.mark.parametrize("steps", [1, 3, 5, 12])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_threshold_1_is_the_confidence_order(steps: int, temperature: float):
    rows = [
        [
            Request([5, *[0] * 12], [False, *[True] * 12], sampler, steps, temperature=temperature, seed=i, trace=True)
            for i in range(8)
        ]
        for sampler in (Threshold(1.0), Order("confidence"))
    ]
    assert watch(small_decoder(), rows[0]) == watch(small_decoder(), rows[1])


def certain(*top: float) -> ByPosition:
    """Places with these top probabilities for token 2; 3, 4 and 5 share the rest, mask and end are never written."""
    table = [[-math.inf, -math.inf, math.log(p), *[math.log((1 - p) / 3)] * 3] for p in top]
    return ByPosition(torch.tensor(table, dtype=torch.float64))


@pytest.mark.parametrize(
    ("threshold", "steps", "expected"),
    [
        (0.9, 6, [[0, 2, 4], [5], [1], [3]]),  # three reach 0.9 at once, then one a step
        (0.9, 2, [[0, 2, 4], [1, 3, 5]]),  # the quota of two steps is three
        (0.96, 3, [[0, 2], [4, 5], [1, 3]]),  # the quota is two, and two reach it; the rest by quota
        (0.999, 3, [[0, 2], [4, 5], [1, 3]]),  # none reach it: the two best
        (0.6, 6, [[0, 2, 4, 5], [1], [3]]),
        (0.3, 6, [[0, 1, 2, 3, 4, 5]]),
        (1.0, 6, [[2], [0], [4], [5], [1], [3]]),
    ],
)
def test_what_reaches_the_threshold_is_written_and_at_least_the_quota(threshold, steps, expected):
    decoder = masked_decoder(certain(0.97, 0.45, 0.98, 0.4, 0.95, 0.7))
    request = Request([0] * 6, [True] * 6, Threshold(threshold), steps, trace=True)
    events = watch(decoder, [request])
    assert [sorted(commit.position for commit in event.commits) for event in events] == expected
    assert events[-1].nfe == decoder.counters.forwards == len(expected)


def test_a_probability_of_exactly_the_threshold_is_enough():
    decoder = masked_decoder(ByPosition(torch.tensor([[-math.inf, -math.inf, 0.0, 0.0]]).expand(4, -1)))
    assert len(watch(decoder, [Request([0] * 4, [True] * 4, Threshold(0.5), 4)])[0].tokens or ()) == 4
    assert decoder.counters.forwards == 1


def test_rows_with_different_thresholds_share_a_batch():
    rows = [Request([5, *[0] * 10], [False, *[True] * 10], Threshold(t), 10, seed=4) for t in (0.3, 0.5, 0.7, 1.0)]
    assert finish(small_decoder(), rows) == [finish(small_decoder(), [row])[0] for row in rows]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, math.nan])
def test_what_is_no_probability_is_refused(threshold: float):
    with pytest.raises(ValueError, match=r"^threshold: expected a probability in \(0, 1\], got "):
        Threshold(threshold)
