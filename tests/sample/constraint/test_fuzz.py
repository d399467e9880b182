"""Random expressions and schemas, with fixed seeds."""

import json
import random
import re

import jsonschema
import numpy as np
import pytest

from sfumato.sample.constraint import json_schema
from sfumato.sample.constraint.bytewise import determinised
from sfumato.sample.constraint.joint import OPEN, Stretch
from sfumato.sample.constraint.pattern import parse
from sfumato.sample.constraint.regular import Regular
from sfumato.text.tokenizer import Tokenizer


def expression(pick: random.Random, depth: int) -> str:
    if depth == 0:
        return pick.choice(["a", "b", "[ab]", "[^a]", ".", "ä", r"\d", r"\w", "é"])
    part = expression(pick, depth - 1)
    kind = pick.randrange(6)
    if kind == 0:
        return part + expression(pick, depth - 1)
    if kind == 1:
        return f"(?:{part}|{expression(pick, depth - 1)})"
    if kind == 2:
        return f"(?:{part}){pick.choice(['*', '+', '?', '{2}', '{1,2}', '{0,3}', '{2,}', '*?'])}"
    return f"({part})" if kind == 3 else part + pick.choice(["", "a", "b"])


@pytest.mark.parametrize("seed", range(4))
def test_expressions_take_what_pythons_engine_takes(seed: int):
    pick = random.Random(seed)
    for _ in range(40):
        pattern = expression(pick, 4)
        automaton, compiled = determinised(parse(pattern)), re.compile(pattern)
        assert automaton is not None
        for _ in range(60):
            text = "".join(pick.choice("aabbäé1 ") for _ in range(pick.randrange(7)))
            assert automaton.takes(text.encode()) == bool(compiled.fullmatch(text)), (pattern, text)


def schema(pick: random.Random, depth: int) -> dict:
    scalars = ("string", "pattern", "integer", "number", "enum", "boolean")
    kind = pick.choice((*scalars, "array", "object", "object", "anyOf", "oneOf", "allOf", "ref") if depth else scalars)
    if kind == "string":
        return {"type": "string", "minLength": pick.randrange(3), "maxLength": pick.randrange(2, 6)}
    if kind == "pattern":
        return {"type": "string", "pattern": pick.choice(["^[a-f]+$", r"^\d{3}-\d$", "x", "^a|b$", r"[^\w]", r"\s"])}
    if kind in ("integer", "number"):
        high = pick.choice(["maximum", "exclusiveMaximum"])
        return {"type": kind, "minimum": pick.randrange(-500, 500) / 20, high: pick.randrange(-300, 900) / 20}
    if kind == "enum":
        return {"enum": pick.sample([1, 2.5, "a", 'ü"', None, True, [1], {"k": "v"}], 2)}
    if kind == "array":
        return {"type": "array", "items": schema(pick, depth - 1), "minItems": pick.randrange(2), "maxItems": 3}
    if kind == "object":
        names = pick.sample(["a", "b", "kind", "x y", "é"], pick.randrange(4))
        properties = {name: schema(pick, depth - 1) for name in names}
        return {"type": "object", "properties": properties, "required": names[: pick.randrange(3)]}
    if kind in ("anyOf", "oneOf", "allOf"):
        return {kind: [schema(pick, depth - 1) for _ in range(pick.randrange(1, 4))]}
    return {"$ref": pick.choice(["#/$defs/d", "#/$defs/e"])} if kind == "ref" else {"type": kind}


@pytest.mark.parametrize("seed", range(3))
def test_documents_of_random_schemas_are_valid(seed: int, tokenizer: Tokenizer):
    pick, numbers, written = random.Random(seed), np.random.default_rng(seed), 0
    for _ in range(25):
        whole = {**schema(pick, 3), "$defs": {"d": schema(pick, 1), "e": schema(pick, 0)}}
        try:
            constraint = json_schema(whole, tokenizer)
        except ValueError as error:
            assert str(error).startswith("json_schema: ") and "\n" not in str(error)
            continue
        if isinstance(constraint, Regular):
            room = max(1, constraint.shortest + pick.randrange(20))
            log_p = list(numbers.normal(size=(room, tokenizer.vocab_size)) * 3)
            tokens = Stretch(constraint.automaton, 0, [OPEN] * room, 0, log_p).draw(numbers.random(room).tolist())
            jsonschema.validate(json.loads(tokenizer.decode(tokens)), whole)
            written += 1
    assert written > 10
