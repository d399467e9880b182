"""Prompts out of records."""

import pytest

from sfumato.config import ConfigError, Source
from sfumato.data.template import fields_of, filled

RECORD = {"name": "Ann", "n": 3, "words": ["a", "b"], "about": {"food": "soup", "size": None, "price": 2}, "x y": "z"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hello {name}!", "Hello Ann!"),
        ("{n} of {words}", "3 of a, b"),
        ("{words[1]}", "b"),
        ("{about}", "food: soup; price: 2"),
        ("{{{x y}}}", "{z}"),
    ],
)
def test_fields_are_filled(template: str, text: str):
    assert filled(template, RECORD) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{name", "prompt: expected '}' before end of string in '{name'; a brace itself is written {{ or }}"),
        ("{name.__class__}", "prompt: expected {field} or {field[0]}, got {name.__class__}"),
        ("{name!r}", "prompt: expected {field} or {field[0]}"),
        ("{}", "prompt: expected {field} or {field[0]}, got {}"),
        ("{words[7]}", "words[7]: expected a list that is long enough"),
        ("{age}", "no field 'age'; it has name, n, words, about, x y"),
    ],
)
def test_what_is_wrong_is_told(template: str, message: str):
    with pytest.raises(ValueError) as caught:
        filled(template, RECORD, "prompt")
    assert str(caught.value).startswith(message)


def test_a_template_names_its_fields():
    assert fields_of("{a} {b[0]} {{c}}", "prompt") == ["a", "b"]
    with pytest.raises(ValueError, match="prompt: expected a text with fields of the records such as {text}"):
        fields_of("nothing", "prompt")


def test_a_prompt_needs_a_response():
    with pytest.raises(ConfigError, match="source a.jsonl: a prompt needs a response"):
        Source("a.jsonl", prompt="{en}")
