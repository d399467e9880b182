"""Ordered samplers: the right positions, the right number of them, and the right distribution."""

import math

import pytest
import torch
from decoding import (
    END,
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
from oracle import LENGTH, MASK, Oracle

from sfumato import rng
from sfumato.canvas import Canvas, Where, Window
from sfumato.model.layout import Full
from sfumato.process import Cosine, Linear, LogLinear, Masked, Schedule
from sfumato.sample.decoder import Request
from sfumato.sample.order import Order, certainty, entropy
from sfumato.sample.sampler import quota, rank

ROWS = 6_000
NAMES = ("confidence", "margin", "entropy")


def sure(name: str, p: list[float]) -> float:
    """The three scores, from their definitions."""
    best, second = sorted(p, reverse=True)[:2]
    return {"confidence": best, "margin": best - second, "entropy": sum(q * math.log(q) for q in p)}[name]


def ordered_law(oracle: Oracle, name: str, counts: list[int]) -> torch.Tensor:
    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        yield tuple(sorted(open_places(pattern), key=lambda i: -sure(name, p[i]))[: counts[step]]), 1.0

    return law(oracle, len(counts), choose)


# --- distributions


@pytest.mark.parametrize("name", NAMES)
def test_one_token_a_step_is_exact(oracle: Oracle, name: str):
    # Whatever order is chosen by looking at the text so far, drawing from exact conditionals is the chain rule.
    assert agree(oracle, oracle_texts(oracle, Order(name), LENGTH, ROWS), oracle.probability_T)


@pytest.mark.parametrize("name", NAMES)
def test_two_tokens_a_step_have_the_law_of_the_best_two(oracle: Oracle, name: str):
    texts_BL = oracle_texts(oracle, Order(name), 2, ROWS)
    assert agree(oracle, texts_BL, ordered_law(oracle, name, [2, 2]))
    assert not agree(oracle, texts_BL, oracle.probability_T)


def test_a_remainder_goes_to_the_earliest_steps_in_the_law_too(oracle: Oracle):
    texts_BL = oracle_texts(oracle, Order("margin"), 3, ROWS)
    assert agree(oracle, texts_BL, ordered_law(oracle, "margin", [2, 1, 1]))
    assert not agree(oracle, texts_BL, ordered_law(oracle, "margin", [1, 1, 2]))


def test_the_order_does_not_depend_on_the_temperature(oracle: Oracle):
    texts_BL = oracle_texts(oracle, Order("confidence"), LENGTH, 64, temperature=0.0)
    assert (texts_BL == texts_BL[0]).all()
    text, filled = [MASK] * LENGTH, []
    for _ in range(LENGTH):
        rows_BL = torch.tensor([[4, *text]])
        hidden_BQV = oracle.encode(rows_BL, where=Where(torch.arange(LENGTH + 1)[None], None), layout=Full())
        p = oracle.readout(hidden_BQV[0, 1:]).softmax(-1)[:, :3]
        place = max((i for i in range(LENGTH) if text[i] == MASK), key=lambda i: float(p[i].max()))
        text[place] = int(p[place].argmax())
        filled.append(place)
    assert texts_BL[0].tolist() == text


# --- which positions

# Three places on which the scores disagree: the first has the highest top probability, the second the widest gap
# between the best two, the third the smallest entropy.
DISAGREEING = torch.tensor(
    [
        [0.500, 0.400, 0.034, 0.033, 0.033],
        [0.480, 0.130, 0.130, 0.130, 0.130],
        [0.490, 0.490, 0.020, 0.0, 0.0],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_are_what_their_names_say(dtype: torch.dtype):
    p_NV = torch.cat((DISAGREEING[:2], rng.uniform(torch.arange(500), 1).view(100, 5)))
    p_NV /= p_NV.sum(1, keepdim=True)
    logits_NV = (p_NV.log() + 3).to(dtype)
    for name in NAMES:
        expected = torch.tensor([sure(name, p) for p in p_NV.tolist()])
        torch.testing.assert_close(certainty(logits_NV, name).float(), expected.float(), atol=1e-5, rtol=1e-5)


def test_forbidden_tokens_add_nothing_to_the_entropy():
    p_V = torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0])
    assert float(entropy(p_V.log()[None])) == pytest.approx(1.5 * math.log(2), abs=1e-6)
    assert float(entropy(torch.tensor([[-math.inf, 3.0, -math.inf]]))) == 0
    assert float(certainty(torch.tensor([[-math.inf, 3.0, -math.inf]]), "margin")) == 1


@pytest.mark.parametrize(("name", "first"), [("confidence", 0), ("margin", 1), ("entropy", 2)])
def test_each_order_writes_first_where_its_score_is_best(name: str, first: int):
    never = torch.full((3, 2), -math.inf)  # the mask and the end
    decoder = masked_decoder(ByPosition(torch.cat((never, DISAGREEING.log()), dim=1)))
    events = watch(decoder, [Request([0] * 3, [True] * 3, Order(name), steps=3, trace=True)])
    assert [commit.position for commit in events[0].commits] == [first]


def test_ties_go_to_the_left():
    decoder = masked_decoder(ByPosition(torch.tensor([[-math.inf, -math.inf, 1.0, 0.5]]).expand(6, -1)))
    events = watch(decoder, [Request([0] * 6, [True] * 6, Order("margin"), steps=3, trace=True)])
    assert [[commit.position for commit in event.commits] for event in events] == [[0, 1], [2, 3], [4, 5]]


def test_rank_orders_within_each_row_only():
    canvas, _ = plain([4, 4])
    index_N = torch.tensor([0, 2, 3, 4, 5, 7])
    score_N = torch.tensor([0.1, -5.0, 0.3, 0.2, 0.2, 0.9])
    assert rank(score_N, index_N, canvas).tolist() == [1, 2, 0, 1, 2, 0]


# --- how many positions


def plain(lengths: list[int], t: float = 1.0, s: float = 0.5) -> tuple[Canvas, Window]:
    """Rows with so many open places."""
    width = max(lengths)
    open_BL = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    position_BL = torch.arange(width).expand(len(lengths), -1)
    levels = torch.ones(len(lengths), dtype=torch.float64)
    canvas = Canvas(torch.zeros_like(position_BL), position_BL, open_BL, open_BL, levels * t)
    return canvas, Window(torch.ones_like(open_BL), levels * s)


def llada_split(tokens: int, steps: int) -> list[int]:
    """How many tokens LLaDA's `get_num_transfer_tokens` writes in each step."""
    return [tokens // steps + (i < tokens % steps) for i in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 16, 64, 333])
def test_quotas_split_the_tokens_over_the_steps_as_llada_does(steps: int):
    lengths = [*range(1, 40), 64, 100, 256, 1000, 1024]
    left = torch.tensor(lengths)
    written = []
    for step in range(steps):
        canvas, window = plain([max(1, n) for n in left.tolist()], 1 - step / steps, 1 - (step + 1) / steps)
        if step == steps - 1:
            window = Window(window.active_BL, window.s_B * 0)
        due = torch.minimum(quota(canvas, window, Masked(0)), left)
        written.append(due)
        left = left - due
    assert left.eq(0).all()
    for column, tokens in zip(torch.stack(written, dim=1).tolist(), lengths, strict=True):
        # With fewer tokens than steps it goes on one by one and ends early, where LLaDA's last steps write nothing.
        assert column == llada_split(tokens, steps)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), LogLinear()], ids=lambda schedule: schedule.name)
def test_a_quota_is_the_schedules_share_but_never_nothing(schedule: Schedule):
    for t, s in ((1.0, 0.9), (0.9, 0.5), (0.5, 0.1)):
        alpha_t, alpha_s = schedule.alpha(torch.tensor([t, s], dtype=torch.float64)).tolist()
        for tokens in (1, 2, 10, 1000):
            canvas, window = plain([tokens], t, s)
            share = tokens * (alpha_s - alpha_t) / (1 - alpha_t)
            assert int(quota(canvas, window, Masked(0, schedule))) == max(1, math.ceil(share - 1e-9))
    canvas, window = plain([7], 0.3, 0.0)
    assert int(quota(canvas, window, Masked(0, schedule))) == 7


@pytest.mark.parametrize(("tokens", "steps"), [(10, 4), (10, 10), (7, 3), (5, 1), (5, 9)])
def test_the_decoder_writes_the_quotas(tokens: int, steps: int):
    request = Request([5, *[0] * tokens, 6], [False, *[True] * tokens, False], Order("entropy"), steps, trace=True)
    events = watch(small_decoder(), [request])
    assert [len(event.commits) for event in events] == [n for n in llada_split(tokens, steps) if n]
    assert events[-1].done and events[-1].nfe == events[-1].step == min(steps, tokens)


# --- against an independent implementation


@pytest.mark.parametrize(("tokens", "steps", "block"), [(12, 12, 12), (12, 4, 12), (11, 4, 11), (12, 6, 4), (12, 8, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_confidence_at_temperature_0_is_lladas_generate(tokens: int, steps: int, block: int, seed: int):
    decoder = small_decoder(seed)
    prompt = [3, 9 + seed, 12]
    text = torch.tensor([[*prompt, *[0] * tokens, 7]])  # a fixed last token: no end of text inside
    where = Where(torch.arange(text.shape[1])[None], None)
    for first in range(len(prompt), len(prompt) + tokens, block):
        for count in llada_split(block, steps * block // tokens):
            hidden_BQD = decoder.denoiser.encode(text, where=where, layout=Full(), t_BQ=None)
            logits_LV = decoder.denoiser.readout(hidden_BQD[0])
            logits_LV[:, END] = -math.inf
            confidence_L, best_L = logits_LV.softmax(-1).max(-1)
            place_L = torch.arange(text.shape[1])
            ready_L = (text[0] == 0) & (place_L >= first) & (place_L < first + block)
            chosen = torch.where(ready_L, confidence_L, -1.0).topk(count).indices
            text[0, chosen] = best_L[chosen]
    editable = [False] * len(prompt) + [True] * tokens + [False]
    request = Request([*prompt, *[0] * tokens, 7], editable, Order("confidence"), steps, temperature=0.0, block=block)
    assert finish(decoder, [request]) == [tuple(text[0].tolist())]
