"""What the visible tokens do to one of them, against the definition by hand."""

import math

import pytest
import torch

from sfumato.canvas import Where
from sfumato.model.layout import Full, Unmasked
from sfumato.sample.influence import influence
from sfumato.sample.language_model import LanguageModel


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load("tiny", "cpu", "float32")


def log_p(model: LanguageModel, tokens: list[int], place: int, token: int) -> float:
    where = Where(torch.arange(len(tokens))[None], None)
    hidden = model.denoiser.encode(torch.tensor([tokens]), where=where, layout=Unmasked(Full()))
    return float(model.denoiser.readout(hidden[0, place : place + 1]).double().log_softmax(-1)[0, token])


def test_it_is_the_fall_of_the_log_probability_when_a_token_is_hidden(model: LanguageModel):
    tokens = [3, *model.tokenizer.encode("Once upon a time there was a dog.")]
    place = 4
    found = influence(model, tuple(tokens), place)
    hidden = [*tokens]
    hidden[place] = 0
    base = log_p(model, hidden, place, tokens[place])
    assert found.probability == pytest.approx(math.exp(base), rel=1e-4)
    assert [i for i, _ in found.delta] == [i for i in range(1, len(tokens)) if i != place]
    for i, delta in found.delta:
        without = [*hidden]
        without[i] = 0
        assert delta == pytest.approx(base - log_p(model, without, place, tokens[place]), abs=1e-4)


def test_the_words_of_a_set_phrase_hold_one_another(model: LanguageModel):
    tokens = (3, *model.tokenizer.encode("Once upon a time there was a dog."))
    found = dict(influence(model, tokens, 3).delta)  # " a" of "Once upon a time"
    near, far = max(found[2], found[4]), found[len(tokens) - 1]
    assert near > far


def test_masks_in_the_text_stay_masks(model: LanguageModel):
    tokens = (3, *model.tokenizer.encode("Once upon"), 0, *model.tokenizer.encode(" time"))
    found = influence(model, tokens, 1)
    assert [i for i, _ in found.delta] == [2, 4]


def test_mistakes_are_one_line(model: LanguageModel):
    with pytest.raises(ValueError, match="position: expected 1 to 2"):
        influence(model, (3, 9, 9), 0)
    with pytest.raises(ValueError, match="expected 2 to 256 tokens"):
        influence(model, (3,) * 300, 2)
    with pytest.raises(ValueError, match="autoregressive process"):
        influence(LanguageModel.load("tiny-ar", "cpu", "float32"), (3, 9, 9), 1)
