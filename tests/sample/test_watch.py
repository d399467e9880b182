"""What those who watch see: drafts, words taken back, and text that is final."""

from dataclasses import replace

import pytest
from decoding import END, Constant, small_decoder, small_network, watch

from sfumato.config import ProcessConfig
from sfumato.model.layout import Block, Full
from sfumato.process import Masked, build_process
from sfumato.sample.ancestral import Ancestral
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.edit import Edit
from sfumato.sample.order import Order
from sfumato.sample.path_planning import PathPlanning
from sfumato.sample.remask import Remask
from sfumato.sample.threshold import Threshold

PROMPT = 3


def request(sampler, block: int = 0, places: int = 20, **options) -> Request:
    tokens = [3, 5, 6] + [0] * places
    editable = [False] * PROMPT + [True] * places
    return Request(tokens, editable, sampler, steps=12, block=block, trace=True, drafts=True, **options)


REVISING = [Remask("cap", 0.3), PathPlanning(1.0), Edit(0.2, 0.3, 8)]


@pytest.mark.parametrize("sampler", [Order("confidence"), Threshold(0.3), Ancestral(), *REVISING], ids=lambda s: s.name)
@pytest.mark.parametrize("block", [0, 5])
def test_who_follows_the_trace_holds_the_row(sampler, block: int):
    """Commits and reopened places say at each step what is written; settled places never change again."""
    held: dict[int, int] = {}
    events = watch(small_decoder(), [request(sampler, block, seed=4)])
    final = events[-1].tokens
    assert final is not None
    settled = [event.settled for event in events]
    assert settled == sorted(settled) and settled[-1] == len(final)
    for event in events:
        for place in event.reopened:
            del held[place]  # it was written
        held |= {commit.position: commit.token for commit in event.commits}
        upto = range(PROMPT, event.settled)
        ended = next((i for i in upto if held.get(i, final[i]) == END), len(final))
        assert all(held[i] == final[i] for i in upto if i <= ended)


@pytest.mark.parametrize("sampler", REVISING[:2], ids=lambda s: s.name)
def test_words_that_are_taken_back_are_reported(sampler):
    events = watch(small_decoder(), [request(sampler, seed=1)])
    assert any(event.reopened for event in events)


def test_a_sampler_that_writes_for_good_settles_text_as_it_goes():
    events = watch(small_decoder(), [request(Order("confidence"), 5, seed=1)])
    assert any(PROMPT < event.settled < PROMPT + 20 for event in events)


def test_drafts_are_the_best_guess_for_what_stays_open():
    logits = [-9.0] * 24
    logits[7], logits[8] = 2.0, 1.0
    decoder = Decoder(Constant(logits), Masked(0), Full(), end_id=END, device="cpu")
    first = watch(decoder, [request(Order("confidence"), places=6, temperature=0.0)])[0]
    places = {commit.position for commit in first.commits} | {draft.position for draft in first.drafts}
    assert places == set(range(PROMPT, PROMPT + 6))
    assert {draft.token for draft in first.drafts} == {7}
    assert first.drafts[0].runners_up[0][0] == 8


def test_drafts_of_noise_that_shows_words_are_those_words():
    uniform = build_process(ProcessConfig("uniform"), vocab_size=24, mask_id=0, never_written=(0, 2, 3))
    decoder = Decoder(small_network(), uniform, Full(), end_id=END, device="cpu")
    decoder.add(request(Ancestral(), seed=2))
    event = decoder.step()[0]
    canvas = decoder._canvas
    assert canvas is not None and event.drafts
    assert all(canvas.tokens_BL[0, draft.position] == draft.token for draft in event.drafts)


def test_rows_that_nobody_watches_report_nothing_but_their_end():
    silent = replace(request(Order("margin"), seed=3), trace=False, drafts=False)
    events = watch(small_decoder(), [silent, request(Order("margin"), seed=3)])
    assert [event.done for event in events if event.request == 0] == [True]
    quiet = next(event for event in events if event.request == 0)
    assert not quiet.commits and not quiet.drafts
    assert quiet.tokens == next(event.tokens for event in events if event.request == 1 and event.done)


def test_settled_text_of_blocks_grows_block_by_block():
    decoder = small_decoder(layout=Block(4))
    settled = [event.settled for event in watch(decoder, [request(Edit(0.2, 0.3, 3), 4, seed=7)])]
    assert {s % 4 for s in settled[:-1] if s > PROMPT} == {0}
