"""Blocks that begin with their first place alone."""

import pytest
import torch
from decoding import END, finish, small_network, watch

from sfumato.config import ConfigError
from sfumato.model.layout import Full
from sfumato.process import Masked, Uniform
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.leading import Leading
from sfumato.sample.order import Order
from sfumato.sample.reuse import Reuse
from sfumato.sample.settings import Settings
from sfumato.sample.threshold import Threshold


def decoder(cache: str = "none", shift: int = 1) -> Decoder:
    process = Masked(0, shift=shift)
    return Decoder(small_network(), process, Full(), end_id=END, device="cpu", reuse=Reuse(cache))


def row(sampler=None, tokens: int = 12, steps: int = 12, block: int = 4, seed: int = 0, **more) -> Request:
    sampler = sampler or Leading(Threshold(0.2))
    text = [5, 6, 7, *[0] * tokens, 8], [False] * 3 + [True] * tokens + [False]
    return Request(*text, sampler, steps, block=block, seed=seed, **more)


@pytest.mark.parametrize("sampler", [Leading(Threshold(0.01)), Leading(Order("entropy", "dream")), Leading(Order())])
def test_the_first_step_of_a_block_writes_its_first_place(sampler: Leading):
    places = [[c.position for c in e.commits] for e in watch(decoder(), [row(sampler, trace=True)])]
    for begin in (3, 7, 11):
        own = [step for step in places if step and begin <= step[0] < begin + 4]
        assert own[0] == [begin] and len(own) > 1
    assert sorted(sum(places, [])) == list(range(3, 15))


def test_a_block_of_one_step_is_written_at_once():
    events = watch(decoder(), [row(steps=3, trace=True)])
    assert [len(event.commits) for event in events] == [4, 4, 4]


def test_only_the_first_place_is_read_then():
    one = decoder()
    one.add(row())
    one.step()
    assert one.counters.logits == 1


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_rows_do_not_notice_each_other(cache: str):
    rows = [row(seed=1), row(Threshold(0.3), 8, 8, seed=2), row(Leading(Order()), 10, 6, 5, seed=3)]
    together = finish(decoder(cache), rows)
    assert [finish(decoder(cache), [one])[0] for one in rows] == together


def test_a_block_whose_first_place_is_written_needs_no_place_before_it():
    positions = []
    for sampler in (Leading(Threshold(1.0)), Threshold(1.0)):
        one = decoder("dual")
        positions.append([])
        for event in watch(one, [row(sampler, temperature=0.0, trace=True)]):
            positions[-1].append(event.positions)
    steps = [torch.tensor([0, *row]).diff().tolist() for row in positions]
    assert steps[0] == [16, 4, 4, 4] * 3
    assert set(steps[1]) <= {16, 4, 5} and 5 in steps[1]


def test_it_is_a_setting():
    made = Settings(sampler="threshold", threshold=0.7, lead=True)
    assert made.build_sampler(Masked(0)) == Leading(Threshold(0.7))
    words = Uniform(mask_id=0, vocab_size=9, never_written=(0,))
    for settings, process in ((made, words), (Settings(sampler="remdm", lead=True), Masked(0))):
        with pytest.raises(ConfigError, match="^lead: is for masked noise and samplers that never revise"):
            settings.build_sampler(process)
