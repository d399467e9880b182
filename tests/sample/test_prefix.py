"""What is kept of finished rows changes the work of later ones, not their text."""

import numpy as np
import pytest
import torch
from decoding import small_network, watch

from sfumato.model.layout import Block, Causal, Full
from sfumato.process import Autoregressive, Masked
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order
from sfumato.sample.prefix import Prefix, PrefixStore

PROMPT = (3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)


def request(prompt, size: int, *, causal: bool, seed: int = 0, places: int = 8) -> Request:
    tokens = [*prompt, *[0] * places]
    editable = [False] * len(prompt) + [True] * places
    sampler = LeftToRight() if causal else Order("margin")
    return Request(tokens, editable, sampler, steps=places, block=0 if causal else size, seed=seed, trace=True)


def decoder(causal: bool, store: PrefixStore | None) -> Decoder:
    process, layout = (Autoregressive(), Causal()) if causal else (Masked(0), Block(4))
    return Decoder(small_network(), process, layout, end_id=1, device="cpu", prefixes=store)


def last(decoder: Decoder, *requests: Request):
    return [event for event in watch(decoder, requests) if event.done]


@pytest.mark.parametrize("causal", [False, True])
def test_a_row_that_begins_like_another_is_the_same_with_less_work(causal: bool):
    store = PrefixStore()
    [first] = last(decoder(causal, store), request(PROMPT, 4, causal=causal))
    assert first.tokens is not None and len(store) == 1
    longer = request((*first.tokens[:16], 5, 6, 7), 4, causal=causal, seed=5)
    [plain] = last(decoder(causal, None), longer)
    [reused] = last(decoder(causal, store), longer)
    assert reused.tokens == plain.tokens and reused.nfe == plain.nfe
    kept = plain.positions - reused.positions
    assert kept == store.reused and kept == (16 if causal else 12)


@pytest.mark.parametrize("causal", [False, True])
def test_rows_that_join_later_find_it_beside_rows_that_run(causal: bool):
    store, requests = PrefixStore(), [request(PROMPT, 4, causal=causal, seed=i, places=4 + i) for i in range(5)]
    alone = [last(decoder(causal, None), one)[0].tokens for one in requests]
    busy = decoder(causal, store)
    ids, events = {}, []
    for one in [*requests, *requests]:  # joined one a step
        ids[busy.add(one)] = len(ids) % 5
        events += busy.step()
    events += watch(busy)
    written = {event.request: event.tokens for event in events if event.done}
    assert len(written) == 10 and store.reused > 0
    assert all(tokens == alone[ids[number]] for number, tokens in written.items())


def test_the_logits_are_those_of_a_fresh_run():
    store = PrefixStore()
    last(decoder(False, store), request(PROMPT, 4, causal=False))
    commits = []
    for kept in (store, None):
        events = watch(decoder(False, kept), [request(PROMPT, 4, causal=False, seed=9)])
        commits.append([(c.token, c.probability, c.entropy) for event in events for c in event.commits])
    assert torch.tensor(commits[0]).sub(torch.tensor(commits[1])).abs().max() < 1e-6  # shown as float32


def test_blocks_of_another_size_are_another_text():
    store = PrefixStore()
    last(decoder(False, store), request(PROMPT, 4, causal=False))
    last(decoder(False, store), request(PROMPT, 8, causal=False))
    assert store.reused == 0


def test_a_prompt_is_never_taken_whole():
    """The place that predicts the first token must run."""
    store = PrefixStore()
    last(decoder(True, store), request(PROMPT, 1, causal=True))
    last(decoder(True, store), request(PROMPT, 1, causal=True))
    assert store.reused == len(PROMPT) - 1


def test_the_full_layout_keeps_nothing():
    store = PrefixStore()
    full = Decoder(small_network(), Masked(0), Full(), end_id=1, device="cpu", prefixes=store)
    last(full, request(PROMPT, 0, causal=False))
    assert len(store) == 0


def prefix(tokens, size: int = 2) -> Prefix:
    part = torch.zeros(len(tokens), 1, 4)
    return Prefix(np.array(tokens), size, (part,), (part,))


def test_whole_blocks_are_shared_up_to_the_first_difference():
    one = prefix([1, 2, 3, 4, 5, 6])
    assert one.shared(np.array([1, 2, 3, 4, 5, 9]), 99) == 4
    assert one.shared(np.array([1, 2, 3, 9]), 99) == 2
    assert one.shared(np.array([1, 2, 3, 4, 5, 6, 7]), 5) == 4
    assert one.shared(np.array([9]), 99) == 0


def test_the_longest_is_found_and_what_it_continues_goes():
    store = PrefixStore()
    store.put(prefix([1, 2]))
    store.put(prefix([1, 2, 3, 4]))
    assert len(store) == 1
    store.put(prefix([1, 2, 8, 8]))
    count, found = store.find([1, 2, 8, 8, 5], 2, 5)
    assert count == 4 and found is not None and found.tokens.tolist() == [1, 2, 8, 8]
    assert store.covers([1, 2, 3, 4], 2) and not store.covers([1, 2, 3, 4, 5, 6], 2)


def test_what_was_not_used_for_longest_goes_first():
    store = PrefixStore(limit=3 * prefix([1, 1]).nbytes)
    for token in (1, 2, 3):
        store.put(prefix([token, token]))
    store.find([1, 1], 2, 2)
    store.put(prefix([4, 4]))
    assert [store.covers([token, token], 2) for token in (1, 2, 3, 4)] == [True, False, True, True]
    store.put(prefix([7] * 8))  # larger than everything
    assert len(store) == 3
