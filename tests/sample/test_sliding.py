"""Texts longer than the context, written in windows."""

import pytest
from bundles import CONTEXT, make

from sfumato.sample.language_model import LanguageModel
from sfumato.text.prompt import Row
from sfumato.text.tokenizer import Tokenizer

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(make(Tokenizer.train(["Once upon a time there was a little cat."] * 4, 290)))


@pytest.mark.parametrize("settings", [{}, {"sampler": "margin", "steps": 60}, {"block": 8}], ids=str)
def test_a_text_longer_than_the_context_is_written_in_windows(model: LanguageModel, settings: dict):
    prompts, starts, events = [PROMPT, "A"], [], []
    done = model.generate(
        prompts, max_tokens=3 * CONTEXT, seed=3, on_start=starts.append, on_event=events.append, **settings
    )
    alone = model.generate(prompts[0], max_tokens=3 * CONTEXT, seed=3, **settings)
    assert done[0].tokens == alone.tokens
    for i, (one, prompt) in enumerate(zip(done, prompts, strict=True)):
        given = 1 + len(model.tokenizer.encode(prompt))
        assert one.text.startswith(prompt) and len(one.tokens) == given + 3 * CONTEXT
        mine = [event for event in events if event.request == i]
        places = [commit.position for event in mine for commit in event.commits]
        assert len(places) == len(set(places)) and set(places) <= set(range(given, len(one.tokens)))
        assert [event.step for event in mine] == sorted(event.step for event in mine)
        assert mine[-1].tokens == one.tokens and mine[-1].nfe == one.stats.nfe
        written = {commit.position: commit.token for event in mine for commit in event.commits}
        assert all(one.tokens[place] == token for place, token in written.items())
    assert [len(start.tokens) for start in starts] == [len(one.tokens) for one in done]


def test_a_later_window_goes_on_from_the_end_of_the_one_before(model: LanguageModel):
    """Greedy, left to right, with a causal view: the second window is what a prompt of its first half gives."""
    options = {"sampler": "left_to_right", "temperature": 0.0}
    long = model.generate(PROMPT, max_tokens=CONTEXT + 10, **options).tokens
    if model.bundle.config.tokens.end in long[:CONTEXT]:
        pytest.skip("this text ends before")
    half = long[CONTEXT - (CONTEXT // 2 - 1) : CONTEXT]
    room = len(long) - CONTEXT
    row = Row([long[0], *half, *[0] * room], [False] * (1 + len(half)) + [True] * room)
    assert model._run([row], **options)[0].tokens[1 + len(half) :] == long[CONTEXT:]
