"""Grammars that are followed from left to right."""

import json
from collections.abc import Callable

import jsonschema
import pytest

from sfumato.sample.constraint import grammar, json_schema
from sfumato.sample.constraint.context_free import Grammar
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer

Models = Callable[[str], LanguageModel]
ARITHMETIC = 'start: sum\nsum: part | sum ("+" | "-") part\npart: /[0-9]/ | "(" sum ")"'
SCHEMAS = [
    {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 7}}, "required": ["n"]},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
]


ITEM = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}, "required": ["a", "b"]}
NESTED = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "multipleOf": 5},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        "list": {"type": "array", "items": {**ITEM, "additionalProperties": False}, "minItems": 1},
    },
    "required": ["n", "next", "list"],
    "additionalProperties": False,
}


def balanced(text: str) -> bool:
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return False
    return depth == 0 and bool(text)


@pytest.mark.parametrize("layout", ["full", "block", "causal"])
def test_texts_belong_to_the_grammar(layout: str, random_model: Models, tokenizer: Tokenizer):
    constraint = grammar(ARITHMETIC, tokenizer)
    samplers = ("left_to_right",) if layout == "causal" else ("left_to_right", "margin", "threshold")
    for sampler in samplers:
        for seed in range(3):
            written = random_model(layout).generate(
                "Once", max_tokens=24, constraint=constraint, sampler=sampler, seed=seed, temperature=float(seed)
            )
            assert balanced(written.completion), written.completion
            assert written.finish_reason == "stop"
            eval(written.completion.replace("0", "1"))  # noqa: S307


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_schemas_beyond_automata(schema: dict, random_model: Models, tokenizer: Tokenizer):
    constraint = json_schema(schema, tokenizer)
    assert isinstance(constraint, Grammar)
    for seed in range(3):
        written = random_model("full").generate("Once", max_tokens=40, constraint=constraint, seed=seed)
        jsonschema.validate(json.loads(written.completion), schema)
        assert written.finish_reason == "stop"


def test_a_text_that_just_fits_is_whole(random_model: Models, tokenizer: Tokenizer):
    constraint = json_schema(NESTED, tokenizer)
    for seed, sampler in enumerate(("margin", "threshold", "left_to_right")):
        for room in (0, 5):
            written = random_model("full").generate(
                "Once",
                max_tokens=constraint.shortest + room,
                constraint=constraint,
                seed=seed,
                sampler=sampler,
                temperature=2.0,
            )
            jsonschema.validate(json.loads(written.completion), NESTED)
            assert written.finish_reason == "stop"
    with pytest.raises(ValueError, match="^max_tokens: got room for"):
        random_model("full").generate("Once", max_tokens=constraint.shortest - 1, constraint=constraint)


def test_an_end_that_is_not_found_is_told(random_model: Models, tokenizer: Tokenizer):
    endless = grammar('start: "a" start | "b" start', tokenizer)
    assert endless.shortest == 0
    written = random_model("full").generate("Once", max_tokens=12, constraint=endless)
    assert set(written.completion) <= {"a", "b"} and len(written.tokens) > 12
    assert written.finish_reason == "length"


def test_a_parser_that_gives_up_ends_the_text(random_model: Models, tokenizer: Tokenizer):
    written = random_model("full").generate("Once", max_tokens=12, constraint=grammar('start: "a" start', tokenizer))
    assert written.finish_reason == "length"


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda t: grammar("start: (", t), "grammar: "),
        (lambda t: grammar("", t), "grammar: "),
        (lambda t: grammar(3, t), "grammar: expected text, got int"),
        (lambda t: json_schema({"not": {"type": "string"}}, t), "json_schema: at the root: 'not' cannot be followed"),
        (
            lambda t: json_schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}, t),
            "json_schema: at the root/oneOf: what 0 takes, 1 may take too",
        ),
    ],
)
def test_what_cannot_be_followed_is_one_line(build, told: str, tokenizer: Tokenizer):
    with pytest.raises(ValueError) as error:
        build(tokenizer)
    assert str(error.value).startswith(told) and "\n" not in str(error.value)
