"""Ancestral sampling follows the reverse process: its law is that of T exact steps, and T reads only what it writes."""

import itertools
import math

import pytest
import torch
from decoding import Choices, Pattern, agree, law, open_places, oracle_row, oracle_texts, variation, watch
from oracle import LENGTH, MASK, START, Oracle

from sfumato import rng
from sfumato.canvas import Canvas, Window
from sfumato.model.layout import Full
from sfumato.process import Cosine, Linear, LogLinear, Masked, Schedule
from sfumato.sample.ancestral import Ancestral
from sfumato.sample.decoder import Decoder

ROWS = 6_000


def ancestral_law(oracle: Oracle, steps: int, schedule: Schedule) -> torch.Tensor:
    """The exact distribution of T steps: every open place is written with the same probability, independently."""
    alpha = schedule.alpha(torch.arange(steps, -1, -1).double() / steps).tolist()

    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        unmask = (alpha[step + 1] - alpha[step]) / (1 - alpha[step])
        places = open_places(pattern)
        for written in itertools.product((False, True), repeat=len(places)):
            chance = math.prod(unmask if w else 1 - unmask for w in written)
            if chance:
                yield tuple(itertools.compress(places, written)), chance

    return law(oracle, steps, choose)


def test_the_error_falls_as_one_over_the_steps(oracle: Oracle):
    error = {t: variation(ancestral_law(oracle, t, Linear()), oracle.probability_T) for t in (1, 2, 4, 8, 16, 32, 64)}
    assert error[1] > 0.1
    for t in (4, 8, 16, 32):
        assert 0.45 < error[2 * t] / error[t] < 0.6
    assert error[64] < 0.1 * error[1]


@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_the_decoder_draws_from_the_exact_law_of_t_steps(oracle: Oracle, steps: int):
    texts_BL = oracle_texts(oracle, Ancestral(), steps, ROWS)
    assert agree(oracle, texts_BL, ancestral_law(oracle, steps, Linear()))
    if steps <= 2:  # and the test would notice the difference to the true distribution
        assert not agree(oracle, texts_BL, oracle.probability_T)


@pytest.mark.parametrize("schedule", [Cosine(), LogLinear()], ids=lambda schedule: schedule.name)
def test_other_schedules_have_their_own_law(oracle: Oracle, schedule: Schedule):
    texts_BL = oracle_texts(oracle, Ancestral(), 3, ROWS, Masked(MASK, schedule))
    assert agree(oracle, texts_BL, ancestral_law(oracle, 3, schedule))


def test_blocks_are_written_one_after_the_other_by_the_same_law(oracle: Oracle):
    def choose(pattern: Pattern, p: list[list[float]], step: int) -> Choices:
        block = (0, 1) if step < 2 else (2, 3)
        places = [place for place in open_places(pattern) if place in block]
        unmask = 1.0 if step % 2 else 0.5
        for written in itertools.product((False, True), repeat=len(places)):
            chance = math.prod(unmask if w else 1 - unmask for w in written)
            yield tuple(itertools.compress(places, written)), chance

    # A block that is done in its first step passes its second one on: the two halves of the law do not care.
    assert agree(oracle, oracle_texts(oracle, Ancestral(), 4, ROWS, block=2), law(oracle, 4, choose))


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), LogLinear()], ids=lambda schedule: schedule.name)
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (0.8, 0.3), (0.5, 0.45), (0.1, 0.0)])
def test_a_step_reads_the_share_that_the_schedule_says(schedule: Schedule, t: float, s: float):
    rows, length = 50, 2000
    position_BL = torch.arange(length).expand(rows, length)
    open_BL = position_BL % 3 > 0
    active_BL = position_BL < 1500
    canvas = Canvas(position_BL * 0, position_BL, open_BL, open_BL, torch.full((rows,), t).double())
    window = Window(active_BL, torch.full((rows,), s).double())
    seeds_B = rng.mix(torch.arange(rows), 5)
    read_BL = Ancestral().reads(canvas, window, process=Masked(MASK, schedule), seeds_B=seeds_B)
    assert not (read_BL & ~(open_BL & active_BL)).any()
    alpha_t, alpha_s = schedule.alpha(torch.tensor([t, s], dtype=torch.float64)).tolist()
    share = (alpha_s - alpha_t) / (1 - alpha_t) if s else 1.0
    count = int((open_BL & active_BL).sum())
    assert abs(int(read_BL.sum()) / count - share) <= 4 * math.sqrt(share * (1 - share) / count) + 1e-9


def test_the_network_runs_only_when_something_is_written(oracle: Oracle):
    decoder = Decoder(oracle, Masked(MASK), Full(), end_id=START, device="cpu")
    before = oracle.calls
    events = watch(decoder, [oracle_row(Ancestral(), 64, seed=3, trace=True)])
    writing = [event for event in events if event.commits]
    assert oracle.calls - before == decoder.counters.forwards == len(writing) <= LENGTH < len(events) <= 64
    assert decoder.counters.positions == len(writing) * (LENGTH + 1)
    assert decoder.counters.logits == sum(len(event.commits) for event in events) == LENGTH
    seen = 0
    for event in events:
        seen += bool(event.commits)
        assert event.nfe == seen


def test_each_row_counts_its_own_forwards(oracle: Oracle):
    decoder = Decoder(oracle, Masked(MASK), Full(), end_id=START, device="cpu")
    events = watch(decoder, [oracle_row(Ancestral(), 32, seed=i, trace=True) for i in range(20)])
    for i in range(20):
        mine = [event for event in events if event.request == i]
        assert mine[-1].done and mine[-1].nfe == sum(bool(event.commits) for event in mine) <= LENGTH
    assert max(event.nfe for event in events) < decoder.counters.forwards <= 32


def test_the_order_of_the_commits_is_random(oracle: Oracle):
    decoder = Decoder(oracle, Masked(MASK), Full(), end_id=START, device="cpu")
    events = watch(decoder, [oracle_row(Ancestral(), 8, seed=i, trace=True) for i in range(2000)])
    step_of = torch.zeros(2000, LENGTH)
    for event in events:
        for commit in event.commits:
            step_of[event.request, commit.position - 1] = event.step
    for place in range(LENGTH):  # each place is written in each of the 8 steps equally often
        counts = torch.bincount(step_of[:, place].long() - 1, minlength=8)
        assert float(((counts - 250) ** 2 / 250).sum()) < 7 + 4 * math.sqrt(14)
    correlation = torch.corrcoef(step_of.T) - torch.eye(LENGTH)
    assert float(correlation.abs().max()) < 4 / math.sqrt(2000)
