"""Documents written for JSON schemas: every one is valid, and what cannot be is refused in one line."""

import json
import math
import socket

import jsonschema
import numpy as np
import pytest
import torch

from sfumato import rng
from sfumato.sample.constraint import choice, json_object, json_schema, regex
from sfumato.sample.constraint.context_free import Grammar
from sfumato.sample.constraint.joint import OPEN, Stretch
from sfumato.sample.constraint.regular import Regular
from sfumato.text.tokenizer import Tokenizer


def thing(required=(), **properties) -> dict:
    return {"type": "object", "properties": properties, "required": list(required)}


def nested(depth: int) -> dict:
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "null"}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
CAT = thing(["kind", "lives"], kind={"const": "cat"}, lives=WHOLE)
DOG = thing(["kind", "trick"], kind={"const": "dog"}, trick=TEXT)
TREE = {"$defs": {"tree": thing(["v"], v=WHOLE, kids={"type": "array", "items": {"$ref": "#/$defs/tree"}})}}
SCHEMAS = [
    {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"n": WHOLE}, "$ref": "#/definitions/n"},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "enum": ["a", "bb"], "pattern": "^.$"},
    {"enum": ["a" * 40 + "!", "aaa"], "pattern": "^(a+)+$"},
    {"enum": [{"a": 1}, {"a": "x"}], "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": WHOLE}},
    {"type": "string", "pattern": "^[^\\d]$"},
    TEXT,
    WHOLE,
    {"type": "number"},
    {"type": "boolean"},
    {"type": "null"},
    {"enum": ["a", 1, None, True, {"x": [1, 2.5]}, 'Größe "q" \\ \n']},
    {"const": "日本語"},
    {"const": "\ud800\0"},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-c]+-\\d{2}$"},
    {"type": "string", "pattern": "b"},
    {"type": "string", "pattern": "^\\W\\s?.$"},
    {"type": "string", "pattern": "^[^a]*$", "maxLength": 5},
    {"type": "string", "pattern": '^["\\\\]+$'},
    {"type": "string", "pattern": "^a|b$"},
    *({"type": "string", "format": name} for name in ("date", "date-time", "time", "uuid", "ipv4", "email", "uri")),
    *({"type": "string", "format": name} for name in ("ipv6", "hostname", "duration")),
    {"type": "integer", "minimum": -5, "maximum": 17},
    {"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 101},
    {"type": "integer", "minimum": 1e3},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
    {"type": "number", "multipleOf": 1, "minimum": 2.5, "maximum": 8.5},
    {"type": ["string", "null"]},
    {"type": "array", "items": WHOLE},
    {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [TEXT, WHOLE], "items": False},
    {"type": "array", "prefixItems": [TEXT], "items": WHOLE, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, "maxItems": 2},
    {"type": "array", "uniqueItems": True, "maxItems": 1},
    thing(),
    thing(["a"], a=WHOLE),
    thing(["b"], a=WHOLE, b=TEXT, c={"type": "null"}),
    thing([], a=WHOLE, b=WHOLE, c=WHOLE),
    thing(['x y/~"é'], **{'x y/~"é': WHOLE}),
    thing(["in"], **{"in": thing(["deep"], deep=thing(["er"], er={"type": "array", "items": TEXT, "maxItems": 1}))}),
    {"type": "object", "additionalProperties": WHOLE},
    {"type": "object", "additionalProperties": False},
    {"type": "object", "minProperties": 1, "maxProperties": 2},
    {"type": "object", "additionalProperties": WHOLE, "minProperties": 3},
    {"type": "object", "required": ["free"]},
    {"anyOf": [TEXT, {"type": "array", "items": TEXT, "maxItems": 1}]},
    {"oneOf": [CAT, DOG]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {"oneOf": [thing(["a"], a=WHOLE), {**thing(["b"], b=WHOLE), "additionalProperties": False}]},
    {"allOf": [thing(["a"], a=WHOLE), thing(["b"], b={"type": "integer", "minimum": 3})]},
    {"allOf": [{"type": "number", "minimum": 3}, {"type": "integer", "maximum": 4}]},
    {"$defs": {"n": WHOLE}, **thing(["a"], a={"$ref": "#/$defs/n"}, b={"$ref": "#/$defs/n", "minimum": 2})},
    {**TREE, "$ref": "#/$defs/tree"},
    thing(["v", "next"], v=WHOLE, next={"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
    {"enum": [1, 2, 3, "x"], "type": "integer", "minimum": 2},
    {"minimum": 3},
    {},
    True,
    {"title": "note", "description": "d", "default": 1, "examples": [1], "$comment": "c", "type": "null"},
]


def drawn(constraint: Regular, tokenizer: Tokenizer, room: int, seed: int, sharp: float = 3.0) -> str:
    """A text that follows random scores."""
    random = np.random.default_rng(seed)
    log_p = [random.normal(size=tokenizer.vocab_size) * sharp for _ in range(room)]
    uniforms = rng.uniform(torch.tensor(seed), torch.arange(room)).tolist()
    stretch = Stretch(constraint.automaton, 0, [OPEN] * room, 0, log_p)
    tokens = stretch.best() if seed == 0 else stretch.draw(uniforms)
    assert constraint.complete(tokens)
    return tokenizer.decode(tokens)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_every_document_is_valid(schema, tokenizer: Tokenizer):
    constraint = json_schema(schema, tokenizer)
    assert isinstance(constraint, Regular)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for seed in range(6):
        for room in {constraint.shortest, constraint.shortest + 3, constraint.shortest + 25}:
            text = drawn(constraint, tokenizer, max(1, room), seed)
            validator.validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, "at the root: no number lies between"),
        (thing(["a"], a={"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}), "at /properties/a: no nu"),
        ({"enum": [1], "type": "string"}, "at the root: no value of enum"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "at the root: no type is left"),
        ({"allOf": [{"const": 1}, {"enum": [2]}]}, "at the root: no value of const"),
        ({"type": "string", "minLength": 3, "maxLength": 1}, "at the root: minLength 3 is above maxLength 1"),
        ({"type": "array", "minItems": 3, "maxItems": 1}, "at the root: minItems 3 is above maxItems 1"),
        ({"type": "array", "prefixItems": [{}], "items": False, "minItems": 2}, "at the root: minItems 2 is above"),
        ({**thing(["b"]), "additionalProperties": False}, "at /properties/b: false takes no value"),
        (thing(["a/b"], **{"a/b": False}), "at /properties/a~1b: false"),
        (thing(["a"], a={"$ref": "#"}), "$ref '#' leads to itself without an end"),
        ({"$ref": "#/nowhere"}, "at the root: $ref '#/nowhere' names nothing"),
        ({"type": "string", "pattern": "^\\x01$"}, "no text fits its patterns"),
        ({"$ref": "https://example.org/x"}, "leads out of the schema"),
        ({"$ref": "#/default", "default": 5}, "at the root: $ref '#/default' leads to no schema: at the root: 5"),
        ({"$ref": "#/enum/0", "enum": [{"type": 5}]}, "$ref '#/enum/0' leads to no schema: at /type"),
        ({"$schema": []}, "at /$schema: expected the address of draft 4 or later, got []"),
        ({"$schema": 5}, "at /$schema: expected the address"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "at /$schema: expected the address"),
        ({"enum": [{"a": 1}], "properties": {"a": {"$ref": "#/nowhere"}}}, "names nothing in the schema: /nowhere"),
        ({"type": "number", "minimum": -(10**400)}, "too large"),
        ({"type": "strnig"}, "at /type: 'strnig' is not valid"),
        ({"properties": {"a": {"minimum": "x"}}}, "at /properties/a/minimum"),
        ("{", "not JSON"),
        ([1], "expected an object, got list"),
        (False, "false takes no value"),
        (nested(250), "nested too deeply"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(schema, told: str, tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="^json_schema: ") as error:
        json_schema(schema, tokenizer)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}], "maxItems": 2},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "integer",
            "minimum": 3,
            "exclusiveMinimum": True,
        },
        {"enum": ["ab", "b"], "pattern": "(?=a)a"},
        {"enum": [{"xa": 1}], "patternProperties": {"^(x+)+$": {"type": "integer"}}},
        {
            "enum": [{"a": {"b": 1}}],
            "properties": {"a": {"patternProperties": {"b": {}}, "additionalProperties": False}},
        },
        {"enum": [{"a": "b"}], "properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
    ],
    ids=lambda schema: json.dumps(schema)[:60],
)
def test_what_needs_a_parser_is_left_to_it_or_refused_in_a_line(schema, tokenizer: Tokenizer):
    try:
        assert isinstance(json_schema(schema, tokenizer), Grammar)
    except ValueError as error:
        assert str(error).startswith("json_schema: at ") and "\n" not in str(error)


def test_no_schema_makes_us_fetch_anything(tokenizer: Tokenizer):
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"http://127.0.0.1:{there.getsockname()[1]}/x"
        for schema in ({"$ref": address}, {"enum": [{"a": 1}], "properties": {"a": {"$ref": address}}}):
            with pytest.raises(ValueError, match="^json_schema: ") as error:
                json_schema(schema, tokenizer)
            assert address in str(error.value)
        there.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            there.accept()


def test_the_language_holds_what_one_expects(tokenizer: Tokenizer):
    schema = thing(["b"], a=WHOLE, b=TEXT, c={"type": "array", "items": WHOLE})
    constraint = json_schema(schema, tokenizer)
    for document in ({"b": ""}, {"a": 1, "b": "x"}, {"b": 'é"\\\n', "c": []}, {"a": 0, "b": "y", "c": [1, -2]}):
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        assert constraint.complete(tokens_of(constraint, tokenizer, text)), text
    for text in ('{"a":1}', '{"b":"x","a":1}', '{"b": "x"}', '{"b":"x",}', '{"b":"x"', '{"b":"x"}}', '{"b":"\n"}'):
        assert not constraint.complete([token for byte in text.encode() for token in one_byte(tokenizer, byte)])


def one_byte(tokenizer: Tokenizer, byte: int) -> list[int]:
    return [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([byte])][:1]


def tokens_of(constraint: Regular, tokenizer: Tokenizer, text: str) -> list[int]:
    """A tokenization of the text that the automaton allows, by search."""
    want = text.encode()
    paths: list[tuple[int, int, list[int]]] = [(0, 0, [])]
    while paths:
        state, done, tokens = paths.pop()
        if done == len(want):
            return tokens
        for token, after in zip(*(part.tolist() for part in constraint.automaton.choices(state)), strict=True):
            piece = tokenizer.token_bytes(token)
            if piece and want.startswith(piece, done):
                paths.append((after, done + len(piece), [*tokens, token]))
    return []


def test_scaffolding_is_forced(tokenizer: Tokenizer):
    constraint = json_schema(thing(["name", "ok"], name={"enum": ["Tim", "Tom"]}, ok={"type": "null"}), tokenizer)
    head = tokenizer.encode('{"name":"T')
    forced = constraint.forced([OPEN] * (len(head) + 2), 20)
    assert list(forced) == [*head, OPEN, *tokenizer.encode("m")]  # i or o, then m


def test_json_objects_of_any_kind(tokenizer: Tokenizer):
    constraint = json_object(tokenizer)
    for seed in range(20):
        assert isinstance(json.loads(drawn(constraint, tokenizer, 40, seed)), dict)


def test_choices(tokenizer: Tokenizer):
    options = ["happy", "very happy", "sad (not)", "Größe.*"]
    constraint = choice(options, tokenizer)
    seen = {drawn(constraint, tokenizer, 12, seed, sharp=0.3) for seed in range(60)}
    assert seen == set(options)
    for wrong in ([], "abc", [1], [""]):
        with pytest.raises(ValueError, match="^choice: expected"):
            choice(wrong, tokenizer)


def test_numbers_are_not_too_long(tokenizer: Tokenizer):
    constraint = json_schema({"type": "number"}, tokenizer)
    assert all(math.isfinite(json.loads(drawn(constraint, tokenizer, 60, seed))) for seed in range(10))


def test_the_same_constraint_is_built_once(tokenizer: Tokenizer):
    assert regex("[ab]{3}", tokenizer).automaton is regex("[ab]{3}", tokenizer).automaton
    assert regex("[ab]{3}", tokenizer).automaton is not regex("[ab]{4}", tokenizer).automaton
