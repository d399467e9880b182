"""Words that must appear: they always do, as whole words, wherever they were put."""

import itertools
import re

import pytest

from sfumato.sample.keywords import Placer, carries, holds
from sfumato.sample.language_model import LanguageModel
from sfumato.text.prompt import Row

WORDS = ["dog", "ball", "mouse"]


def row_of(model: LanguageModel, text: str, template: bool = True) -> Row:
    return model.front.row(text, 24, template=template)


def placer(model: LanguageModel) -> Placer:
    return Placer(model.denoiser, model.process, model.layout, model.tokenizer, model.device)


@pytest.mark.parametrize("sampler", ["margin", "ancestral", "threshold", "left_to_right"])
@pytest.mark.parametrize("prompt", ["", "Once upon a time ", "Once upon a time there was"])
def test_every_word_appears_as_a_word(small_model: LanguageModel, sampler: str, prompt: str):
    for seed in range(6):
        found = small_model.generate(prompt, max_tokens=30, keywords=WORDS, sampler=sampler, seed=seed)
        assert found.text.startswith(prompt) and all(holds(found.text, word) for word in WORDS), found.text
        assert found.completion == found.text.removeprefix(prompt)


@pytest.mark.parametrize("template", ["A {14} tail.", "{9}mouse and{9}ish {*}", "{2} dog {12}."])
def test_words_go_into_holes_and_given_text_stays(small_model: LanguageModel, template: str):
    literal = re.split(r"\{[^}]*\}", template)
    for seed in range(6):
        text = small_model.infill(template, keywords=["dog", "ball"], max_tokens=5, seed=seed).text
        assert holds(text, "dog") and holds(text, "ball")
        assert text.startswith(literal[0]) and all(piece in text for piece in literal)


def test_words_fill_the_holes_to_the_last_token(small_model: LanguageModel):
    tokens = sum(max(len(small_model.tokenizer.encode(form)) for form in (word, " " + word)) for word in WORDS)
    for order, seed in itertools.product(itertools.permutations(WORDS), range(4)):
        text = small_model.generate("A", length=tokens + 1, keywords=order, seed=seed).text
        assert all(holds(text, word) for word in WORDS)


def test_a_word_that_is_there_is_not_put_again(small_model: LanguageModel):
    row = row_of(small_model, "The dog sat. {6}")
    put, _ = placer(small_model)(row, ["dog"], 0)
    assert put == row


@pytest.mark.parametrize("template", ["The dogs sat. {6}", "do{6}g", "A hot{6}dog.", "The dog{6}"])
def test_what_may_become_another_word_does_not_count(small_model: LanguageModel, template: str):
    row = row_of(small_model, template)
    put, _ = placer(small_model)(row, ["dog"], 0)
    assert put != row


def test_places_depend_on_the_seed_alone(small_model: LanguageModel):
    row = row_of(small_model, "A", template=False)
    put = placer(small_model)
    tokens = [tuple(put(row, WORDS, seed)[0].tokens) for seed in range(8)]
    assert tokens == [tuple(put(row, WORDS, seed)[0].tokens) for seed in range(8)] and len(set(tokens)) > 4


def test_a_batch_is_its_rows_alone(small_model: LanguageModel):
    prompts = ["A dog", "The mouse", ""]
    options = {"max_tokens": 20, "keywords": WORDS, "guidance": 0.7}
    together = small_model.generate(prompts, seed=5, **options)
    for i, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        assert small_model.generate(prompt, seed=5 + i, **options).text == found.text


def test_each_word_costs_a_forward_pass(small_model: LanguageModel):
    passes = [
        small_model.generate("A", max_tokens=20, steps=5, keywords=words).stats.nfe for words in ([], WORDS[:1], WORDS)
    ]
    assert passes == [5, 6, 8]


@pytest.mark.parametrize(
    ("token", "carried"), [(b"s", True), (b"9", True), (b" s", False), (b".", False), (b"", False), (b"\xc3", True)]
)
def test_what_carries_a_word_on(token: bytes, carried: bool):
    assert carries(token) == carried


@pytest.mark.parametrize(
    ("words", "message"),
    [([" dog"], "space around"), ([""], "space around"), (["dog" * 30], "need"), ("dog", "list of words")],
)
def test_words_that_cannot_be_placed_are_refused(small_model: LanguageModel, words, message: str):
    with pytest.raises(ValueError, match=message):
        small_model.generate("A", max_tokens=8, keywords=words)
