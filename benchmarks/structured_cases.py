"""Random schemas, regular expressions, choices and tools to ask a server for.

A case is a function of the seed and its number. Most make sense; some cannot be satisfied, some are nonsense, some ask
for more than a server should do.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KINDS = ("schema", "regex", "tool", "schema", "choice", "regex", "schema", "regex", "schema", "tool")
"""Of ten cases in a row."""
WORDS = ("cat", "dog", "Tom", "", "a b", "Größe", "日本", 'q"\\', "x/y~z", "$ref", "\U0001f469\u200d\U0001f680", "\t")
PATTERNS = (r"^[a-z]{1,5}$", r"\d{3}", r"^(yes|no)$", r"^\w+@\w+\.com$", r"^[^\s\d]*$", r"a|^b+$", r"^.{2,4}$", r"\S")
FORMATS = ("date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "uri", "hostname", "duration", "no-such")
STRANGE: tuple[tuple[str, Any], ...] = (
    *(("type", value) for value in ("what", 5, None, [], ["string", "string"], ["null", 3], {"type": "null"})),
    *(("minimum", value) for value in ("3", True, 1e308, -1e-300, 10**40, -(10**400))),
    *(("maximum", value) for value in (1e308, 5e-324, None)),
    *(("exclusiveMinimum", True), ("multipleOf", 0), ("multipleOf", 0.1), ("multipleOf", 7), ("multipleOf", 1e-9)),
    *(("minLength", value) for value in (-1, 1.5, 2.0, 1e30, 500, 10**18)),
    *(("maxItems", 10**9), ("minItems", 4000), ("minItems", "2"), ("minProperties", 3), ("maxProperties", 0)),
    *(("pattern", value) for value in ("(", 5, "[z-a]", r"(a)\1", "(?=a)a", "(a+)+$", "(a|a?)+b", r"\p{L}+")),
    *(("enum", value) for value in (5, [], [[]], ["a" * 36 + "!"], [1.0, 1, True], [{"a": 1}])),
    *(("required", value) for value in ("a", [1], ["a", "a"], ["nobody"], True)),
    *(("properties", value) for value in ([], 5, {"a": 5}, {"a": {"$ref": "#/nowhere"}}, {"$ref": {"type": "null"}})),
    *(("items", value) for value in (5, False, [{"type": "null"}], {"$ref": "#"})),
    *(("$ref", value) for value in ("#/nowhere", "http://127.0.0.1:9/x", 5, "#anchor", "", "#/%zz", "#/type", "#")),
    *(("$ref", value) for value in ("#/default", "#/enum/0", "#/properties", "file:///etc/hostname")),
    *(("$schema", value) for value in (5, [], "no", "http://json-schema.org/draft-04/schema#")),
    *(("$schema", f"http://json-schema.org/draft-0{number}/schema#") for number in (3, 6, 7)),
    *(("$id", value) for value in ("http://a.example/b", "#x", 5)),
    *(("default", 5), ("title", 5), ("$defs", 5), ("$defs", {"x": 5}), ("$dynamicRef", "#"), ("$anchor", "here")),
    *(("additionalProperties", 5), ("additionalProperties", False), ("patternProperties", {"^a(": {}})),
    *(("patternProperties", {"^x-": {"type": "integer"}}), ("propertyNames", {"pattern": "^a"})),
    *(("not", {}), ("not", {"type": "null"}), ("if", {"type": "null"}), ("contains", {"const": 1})),
    *(("unevaluatedProperties", False), ("dependentRequired", {"a": ["b"]}), ("uniqueItems", True)),
    *(("allOf", []), ("anyOf", [5]), ("oneOf", [{}, {}]), ("anyOf", [False]), ("allOf", [{"$ref": "#"}])),
    *(("const", {"$ref": "#/x"}), ("const", None), ("const", "\ud800"), ("const", "\0"), ("format", 5)),
)
CATASTROPHIC = (
    *(r"(a+)+b", r"(a|a)*c", r"(a|aa)+$", r"(.*a){12}", r"(a|b)*a(a|b){16}", r"(x+x+)+y", r"([a-z]+)*\d", r"(|a)+"),
    *(r"a{5000}", r"(a{1000}){1000}", r"(a{0,100}){0,100}", r"((a?){50}){50}", r"(a?){200}a{200}", r"(\w{1,60}){1,60}"),
    *(r"[\s\S]{0,3000}", r"(((((a*)*)*)*)*)*", r"(a*)*", r"(a*?)+?b", r"(a{2,}){2,}", r"a{99999999999}"),
)
UNUSABLE = (
    *("(", ")", "a**", "[z-a]", r"\8", "(?P<n>a)(?P=n)", "(?<=a)b", "(?!a)b", r"\bword\b", "a{3,2}", "*", "[", "\\"),
    *(r"(?i)cat", r"(?m)^a$", "^^a", "a$b", "(a)?(?(1)b|c)", "a++", "(?>ab)c", r"[^\s\S]", "\0", r"\p{L}", "\ud800"),
    *(r"(?a)\w+", r"(?x) a b # c", r"(?s).", r"(?a:\w)", "a{,2}", "x{a}", r"\N{DIGIT ONE}", r"[^\d]{2}", r"[]a]"),
)


@dataclass(frozen=True)
class Case:
    """One thing to ask for."""

    number: int
    kind: str
    """schema, regex, choice or tool."""
    wanted: Any
    """The schema, the expression, the options, or the parameters of each function by its name."""
    temperature: float


def case_of(seed: int, number: int) -> Case:
    """The case of that number."""
    draw = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    makers: dict[str, Callable[[random.Random], Any]] = {
        "schema": _schema,
        "regex": _regex,
        "choice": _choice,
        "tool": _tools,
    }
    return Case(number, kind, makers[kind](draw), draw.choice((0.0, 0.7, 1.0, 2.0)))


def _schema(draw: random.Random) -> Any:
    schema = _Schemas(draw).whole()
    for _ in range(draw.choice((0, 0, 0, 0, 0, 1, 1, 2))):
        key, value = draw.choice(STRANGE)
        draw.choice(_places(schema))[key] = value
    if draw.random() < 0.01:
        for _ in range(draw.choice((40, 400))):
            schema = {"type": "array", "items": schema}
    return schema


def _places(schema: Any) -> list[dict[str, Any]]:
    """Every object of a schema that may be a schema itself."""
    inside = schema if isinstance(schema, list) else schema.values() if isinstance(schema, dict) else ()
    here = [schema] if isinstance(schema, dict) else []
    return here + [place for part in inside for place in _places(part)]


class _Schemas:
    """Schemas that make sense, more or less."""

    def __init__(self, draw: random.Random):
        self.draw, self.names = draw, [f"d{i}" for i in range(draw.choice((0, 0, 1, 2)))]

    def whole(self) -> dict[str, Any]:
        found = self.one(self.draw.choice((1, 2, 2, 3)))
        return {**found, "$defs": {name: self.one(2) for name in self.names}} if self.names else found

    def one(self, depth: int) -> dict[str, Any]:
        flat = [self.text, self.number, self.number, self.value, self.plain, self.text, self.reference]
        nested = [self.record, self.record, self.record, self.listing, self.union, self.all_of, self.mapping]
        return self.draw.choice(flat + nested * 2 if depth else flat)(depth)

    def record(self, depth: int) -> dict[str, Any]:
        draw = self.draw
        names = draw.sample([*WORDS, "a", "b", "name", "kind"], draw.randint(1, 4))
        found: dict[str, Any] = {"type": "object", "properties": {name: self.one(depth - 1) for name in names}}
        found["required"] = [name for name in names if draw.random() < 0.6]
        if draw.random() < 0.4:
            found["additionalProperties"] = draw.choice((False, False, {"type": "integer"}, True))
        if draw.random() < 0.1:
            found |= draw.choice(({"minProperties": 1}, {"maxProperties": 2}, {"required": [*names, "more"]}))
        return found

    def mapping(self, depth: int) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.one(depth - 1)} | self.span("Properties", 2)

    def listing(self, depth: int) -> dict[str, Any]:
        found = {"type": "array", "items": self.one(depth - 1)} | self.span("Items", 4)
        if self.draw.random() < 0.25:
            found["prefixItems"] = [self.one(depth - 1) for _ in range(self.draw.randint(1, 3))]
        if self.draw.random() < 0.15:
            found |= self.draw.choice(({"uniqueItems": True}, {"items": False}))
        return found

    def span(self, what: str, most: int) -> dict[str, Any]:
        low, high = self.draw.randint(0, most), self.draw.randint(0, most + 1)
        chosen = self.draw.choice(((), (f"min{what}",), (f"max{what}",), (f"min{what}", f"max{what}")))
        return {key: low if key.startswith("min") else high for key in chosen}

    def text(self, depth: int) -> dict[str, Any]:
        found = {"type": "string"} | self.span("Length", 8)
        if self.draw.random() < 0.3:
            found["pattern"] = self.draw.choice(PATTERNS)
        if self.draw.random() < 0.15:
            found = {"type": "string", "format": self.draw.choice(FORMATS)}
        return found

    def number(self, depth: int) -> dict[str, Any]:
        draw = self.draw
        found: dict[str, Any] = {"type": draw.choice(("integer", "number"))}
        ends = [draw.choice((draw.randint(-20, 200), round(draw.uniform(-2, 2), draw.randint(0, 6)))) for _ in range(2)]
        low, high = sorted(ends) if draw.random() < 0.9 else ends
        if draw.random() < 0.5:
            found[draw.choice(("minimum", "exclusiveMinimum"))] = low
        if draw.random() < 0.5:
            found[draw.choice(("maximum", "exclusiveMaximum"))] = high
        if draw.random() < 0.1:
            found["multipleOf"] = draw.choice((1, 1.0, 2, 5, 0.5, 0.01))
        return found

    def value(self, depth: int) -> dict[str, Any]:
        values = [*WORDS, 0, -1, 2.5, 1e22, True, False, None, [], [1, "a"], {}, {"a": 1}, {"b": {"c": []}}]
        chosen = self.draw.sample(values, self.draw.randint(1, 5))
        return self.draw.choice(({"enum": chosen}, {"const": chosen[0]}, {"enum": chosen, "type": "string"}))

    def plain(self, depth: int) -> dict[str, Any]:
        kinds = ("boolean", "null", ["string", "null"], ["integer", "boolean"], "object", "array")
        return self.draw.choice(({"type": self.draw.choice(kinds)}, {"title": "any"}, {"type": "boolean"}))

    def union(self, depth: int) -> dict[str, Any]:
        ways = [self.one(depth - 1) for _ in range(self.draw.randint(1, 3))]
        return {self.draw.choice(("anyOf", "anyOf", "oneOf")): ways}

    def all_of(self, depth: int) -> dict[str, Any]:
        return {"allOf": [self.draw.choice((self.record, self.one))(depth) for _ in range(self.draw.randint(1, 2))]}

    def reference(self, depth: int) -> dict[str, Any]:
        targets = [f"#/$defs/{name}" for name in self.names]
        found = {"$ref": self.draw.choice([*targets, "#"] if targets else ["#"])}
        if depth == 0 and self.draw.random() < 0.5:
            return {"anyOf": [{"type": "null"}, found]}
        return found | self.draw.choice(({}, {}, {"title": "t"}, {"minimum": 2}, {"maxLength": 3}))


def _regex(draw: random.Random) -> str:
    chance = draw.random()
    if chance < 0.1:
        return draw.choice(CATASTROPHIC)
    if chance < 0.2:
        return draw.choice(UNUSABLE)
    pattern = _expression(draw, draw.choice((0, 1, 1, 2)))
    if chance < 0.3:
        at = draw.randrange(len(pattern) + 1)
        pattern = pattern[:at] + draw.choice("()[]{}*+?|\\^$.") + pattern[at:]
    return pattern or "a"


def _expression(draw: random.Random, depth: int) -> str:
    ways = ["".join(_term(draw, depth) for _ in range(draw.randint(1, 3))) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
    return "|".join(ways)


def _term(draw: random.Random, depth: int) -> str:
    atoms = (
        "a",
        "cat",
        "é",
        "日",
        "\U0001f44d",
        r"\.",
        r"\n",
        r"\u00e9",
        r"\x41",
        " ",
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\W",
    )
    sets = ("[a-f]", "[^a-z]", r"[\w-]", r"[^\W\d]", r"[à-ü]", r"[^\d\s]", "[0-9A-F]", "[一-龥]", r"[\]\\]", "[.*+]")
    if depth and draw.random() < 0.35:
        found = draw.choice(("(", "(?:", f"(?P<x{draw.randrange(10**6)}>")) + _expression(draw, depth - 1) + ")"
    else:
        found = draw.choice(atoms + sets)
    return found + draw.choice(("", "", "", "", "?", "*", "+", "*?", "{2}", "{1,3}", "{0,2}", "{2,}", "{0}"))


def _choice(draw: random.Random) -> list[Any]:
    words = [draw.choice(WORDS) + draw.choice((" ", "", "s", " and a dog")) for _ in range(draw.randint(1, 8))]
    odd: tuple[list[Any], ...] = (
        *([], [""], [5], ["\0"], ["a", "aa", "aaa"], ["x"] * 3, ["\ud800"], ["no " * 300], ["a\n", "a\r\n"]),
        *([f"option {i}" for i in range(1000)], ["x"] * 1001, [None], ["<|end|>", "<|user|>"]),
    )
    return draw.choice(odd) if draw.random() < 0.2 else [word or "no" for word in words]


def _tools(draw: random.Random) -> dict[str, Any]:
    names = draw.sample(("find", "ask_me", "get-weather", "x", "Tell"), draw.randint(1, 3))
    return {name: _schema(draw) if draw.random() < 0.8 else None for name in names}
