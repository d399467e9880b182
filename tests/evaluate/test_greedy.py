"""Is it what greedy decoding writes? Yes for what it writes, no for anything else, and that is known early."""

from dataclasses import replace

import pytest
import torch
from scoring import build, continuation

from sfumato.canvas import Where
from sfumato.evaluate.continuation import Continuation
from sfumato.evaluate.greedy import greedy_matches
from sfumato.model.layout import Causal


@pytest.mark.parametrize("sampler", ["confidence", "margin", "remdm"])
def test_a_masked_model_writes_what_it_writes_and_nothing_else(sampler: str):
    model = build()
    settings = {"sampler": sampler, "seed": 3}
    plan = model.front.plan(settings)
    written, nfe = [], []
    for prompt in ("the cat", "größer", ""):
        one = model.generate(prompt, max_tokens=6, steps=6, temperature=0, **settings)
        before = [model.tokenizer.start_id, *model.tokenizer.encode(prompt)]
        written.append(Continuation(before, one.tokens[len(before) :]))
        nfe.append(one.stats.nfe)
    wrong = [replace(one, tokens=[*one.tokens[:-1], (one.tokens[-1] + 1) % 200 + 7]) for one in written]
    matches = greedy_matches(model, plan, [*written, *wrong])
    assert [match.exact for match in matches] == [True] * 3 + [False] * 3
    assert [match.nfe for match in matches[:3]] == nfe
    assert all(1 <= match.nfe <= 6 for match in matches)


def test_a_row_is_given_up_at_the_first_wrong_token():
    model = build("autoregressive")
    one = continuation(model, "the cat", " sat on the mat")
    true = model.generate("the cat", length=len(one.tokens), temperature=0).tokens[len(one.before) :][: len(one.tokens)]
    for right in range(len(one.tokens)):
        tokens = [*true[:right], (true[right] + 1) % 200 + 7, *true[right + 1 :]]
        (match,) = greedy_matches(model, model.front.plan({}), [replace(one, tokens=tokens)])
        assert (match.exact, match.nfe) == (False, right + 1)


def test_of_an_autoregressive_model_it_is_the_most_probable_token_at_each_place():
    model = build("autoregressive")
    before = [model.tokenizer.start_id, *model.tokenizer.encode("the cat")]
    tokens = list(before)
    for _ in range(5):
        where_BL = torch.arange(len(tokens))[None]
        hidden = model.denoiser.encode(
            torch.tensor([tokens]),
            where=Where(where_BL, torch.zeros_like(where_BL)),
            layout=Causal(),
            read_N=torch.tensor([len(tokens) - 1]),
        )
        logits_V = model.denoiser.readout(hidden)[0]
        tokens.append(int(logits_V.argmax()))
    (match,) = greedy_matches(model, model.front.plan({}), [Continuation(before, tokens[len(before) :])])
    assert match.exact and match.nfe == 5
