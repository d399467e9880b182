"""Constraints through vocabularies that are not ours: random networks write nothing else."""

import json
import re
from collections.abc import Callable

import pytest
from foreign_models import tiny_model
from foreign_tokenizers import ALL, Ids

from sfumato.sample.constraint import choice, grammar, json_object, json_schema, regex
from sfumato.sample.language_model import LanguageModel

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Tom", "the cat"]}, "late": {"type": "boolean"}},
    "required": ["name", "late"],
    "additionalProperties": False,
}
WORDS = ["the cat", "yes", "no"]


@pytest.fixture(scope="module", params=ALL)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    make: Callable[[], tuple[str, Ids]] = ALL[request.param]
    return tiny_model(*make())


def test_one_of_some_words(model: LanguageModel):
    for seed in range(3):
        found = model.generate("", max_tokens=12, constraint=choice(WORDS, model.tokenizer), seed=seed)
        assert found.text in WORDS and found.finish_reason == "stop"
        behind = model.generate("it's", max_tokens=12, constraint=choice(WORDS, model.tokenizer), seed=seed)
        assert behind.completion.strip(" ") in WORDS


def test_a_pattern(model: LanguageModel):
    constraint = regex("(yes|no)( (yes|no))*", model.tokenizer)
    found = model.generate("", max_tokens=9, constraint=constraint, seed=1)
    assert re.fullmatch("(yes|no)( (yes|no))*", found.text)


def test_json(model: LanguageModel):
    if model.tokenizer.name_of(model.tokenizer.end_id) == "[SEP]":
        with pytest.raises(ValueError, match="the tokens of this model cannot spell any text that fits"):
            json_schema(SCHEMA, model.tokenizer)
        return
    constraint = json_schema(SCHEMA, model.tokenizer)
    for seed in range(2):
        found = json.loads(model.generate("", max_tokens=48, constraint=constraint, seed=seed).text)
        assert found["name"] in ("Tom", "the cat") and found["late"] in (True, False)
    assert isinstance(json.loads(model.generate("", max_tokens=40, constraint=json_object(model.tokenizer)).text), dict)


def test_a_grammar(model: LanguageModel):
    pytest.importorskip("llguidance")
    if model.tokenizer.name_of(model.tokenizer.end_id) == "[SEP]":
        pytest.skip("its tokens bring spaces along that the grammar does not know")
    constraint = grammar('start: "yes" rest\nrest: " no" rest | "."', model.tokenizer)
    found = model.generate("", max_tokens=20, constraint=constraint, seed=2)
    assert re.fullmatch(r"yes( no)*\.", found.text)
