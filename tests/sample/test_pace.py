"""Dream's pace, and what a rule may judge: the laws, by enumeration."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from decoding import (
    ByPosition,
    Choices,
    Pattern,
    agree,
    conditionals,
    law,
    masked_decoder,
    open_places,
    oracle_texts,
    small_decoder,
    watch,
)
from oracle import LENGTH, MASK, WORDS, Oracle

from sfumato.sample.ancestral import Ancestral
from sfumato.sample.decoder import Request
from sfumato.sample.order import Order
from sfumato.sample.pace import dream_levels
from sfumato.sample.threshold import Threshold

ROWS = 6_000


def levels(steps: int) -> list[float]:
    return torch.linspace(1, 1e-3, steps + 1, dtype=torch.float64).tolist()


def dream_counts(tokens: int, steps: int) -> list[int]:
    """How many tokens Dream's `diffusion_generate` writes in each step."""
    level, counts = levels(steps), []
    for i in range(steps):
        left = tokens - sum(counts)
        counts.append(int(left * (1 - level[i + 1] / level[i])) if i + 1 < steps else left)
    return counts


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 512])
def test_the_levels_end_at_a_thousandth(steps: int):
    done_B = torch.arange(steps)
    t_B, s_B = dream_levels(done_B, torch.full_like(done_B, steps))
    assert t_B.tolist() == pytest.approx(levels(steps)[:-1])
    assert s_B.tolist() == pytest.approx([*levels(steps)[1:-1], 0.0])


@pytest.mark.parametrize(("tokens", "steps"), [(16, 16), (16, 4), (37, 10), (5, 8), (64, 7)])
def test_the_counts_are_dreams_and_a_step_without_any_costs_nothing(tokens: int, steps: int):
    row = [5, *[0] * tokens, 6], [False, *[True] * tokens, False]
    request = Request(*row, Order("margin", "dream"), steps, trace=True)
    decoder = small_decoder(context=128)
    events = watch(decoder, [request])
    counts = dream_counts(tokens, steps)
    assert [len(event.commits) for event in events] == counts
    assert events[-1].nfe == decoder.counters.forwards == sum(map(bool, counts))


def test_the_law_of_dreams_entropy_order(oracle: Oracle):
    counts = dream_counts(LENGTH, 3)
    assert counts == [1, 1, 2]

    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        nats = {i: -sum(q * math.log(q) for q in p[i]) for i in open_places(pattern)}
        yield tuple(sorted(nats, key=lambda i: nats[i])[: counts[step]]), 1.0

    assert agree(oracle, oracle_texts(oracle, Order("entropy", "dream"), 3, ROWS), law(oracle, 3, choose))


def test_the_law_of_dreams_origin(oracle: Oracle):
    level = levels(3)

    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        places, share = open_places(pattern), 1 - level[step + 1] / level[step] if step < 2 else 1.0
        for count in range(len(places) + 1):
            for chosen in itertools.combinations(places, count):
                yield chosen, share**count * (1 - share) ** (len(places) - count)

    assert agree(oracle, oracle_texts(oracle, Ancestral("dream"), 3, ROWS), law(oracle, 3, choose))


def test_the_law_of_positions_drawn_by_their_scores(oracle: Oracle):
    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        places = open_places(pattern)
        weight = dict(zip(places, torch.tensor([max(p[i]) / 0.2 for i in places]).exp().tolist(), strict=True))
        for order in itertools.permutations(places, 2):  # one after the other, in proportion to what is left
            first, total = weight[order[0]], sum(weight.values())
            yield order, first / total * weight[order[1]] / (total - first)

    texts_BL = oracle_texts(oracle, Order("confidence", order_temperature=0.2), 2, ROWS)
    assert agree(oracle, texts_BL, law(oracle, 2, choose))


def drawn_law(oracle: Oracle, temperature: float, filtered: bool) -> torch.Tensor:
    """Two steps of two: a word is drawn at every open place, and the two most probable of them are written."""
    known, state = conditionals(oracle), {(MASK,) * LENGTH: 1.0}
    for _ in range(2):
        after: dict[Pattern, float] = defaultdict(float)
        for pattern, weight in state.items():
            places = open_places(pattern)
            plain = torch.tensor(known[pattern], dtype=torch.float64)
            warm = (plain.log() / temperature).softmax(-1)
            for words in itertools.product(range(WORDS), repeat=len(places)):
                chance = {place: float(warm[place, word]) for place, word in zip(places, words, strict=True)}
                score = {place: float((warm if filtered else plain)[place, words[i]]) for i, place in enumerate(places)}
                text, p = list(pattern), weight
                for place in places:
                    p *= chance[place]
                for place in sorted(places, key=lambda place: -score[place])[:2]:
                    text[place] = words[places.index(place)]
                after[tuple(text)] += p
        state = after
    return torch.tensor([state[tuple(text)] for text in oracle.texts_TL.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("judged", ["drawn", "filtered"])
def test_the_law_where_the_drawn_token_is_judged(oracle: Oracle, judged: str):
    texts_BL = oracle_texts(oracle, Order("confidence", judged=judged), 2, ROWS, temperature=0.6)
    assert agree(oracle, texts_BL, drawn_law(oracle, 0.6, judged == "filtered"))
    assert not agree(oracle, texts_BL, drawn_law(oracle, 1.0, False))


@pytest.mark.parametrize("sampler", [Order, Threshold], ids=["order", "threshold"])
def test_without_temperature_the_drawn_token_is_the_best(sampler: type):
    row = [5, *[0] * 12], [False, *[True] * 12]
    best, drawn = (Request(*row, sampler(judged=j), 6, temperature=0.0, trace=True) for j in ("best", "drawn"))
    assert watch(small_decoder(), [best]) == watch(small_decoder(), [drawn])


def test_filters_change_what_is_judged():
    p = torch.tensor([[0.0, 0.0, 0.50, 0.49, 0.01], [0.0, 0.0, 0.45, 0.28, 0.27]], dtype=torch.float64)
    for judged, first in (("best", 0), ("filtered", 1)):  # of the best two tokens 0.505 and 0.616 are left
        request = Request([0] * 2, [True] * 2, Order(judged=judged), 2, temperature=0.0, top_k=2, trace=True)
        events = watch(masked_decoder(ByPosition(p.log())), [request])
        assert [commit.position for commit in events[0].commits] == [first]
