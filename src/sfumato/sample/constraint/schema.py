"""JSON schemas -> regular languages of documents, written without space between their parts.

The language holds documents that the schema takes, if not all of them: properties stand in the order of the schema and
no others are added, numbers have few digits, and what refers to itself is followed to a fixed depth. So what is written
is valid, its length is known beforehand, and everything that has no alternative costs no forward pass. What automata
cannot do (`NotRegular`) is left to `grammar`.
"""

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from sfumato.sample.constraint.bytewise import TooLarge
from sfumato.sample.constraint.disjoint import avoids
from sfumato.sample.constraint.language import (
    ANY_CHARACTER,
    Alt,
    Chars,
    Language,
    Repeat,
    Seq,
    lengths,
    literal,
    quoted,
    seq,
)
from sfumato.sample.constraint.merge import KEYWORDS, NOTES, NotRegular, merged, types
from sfumato.sample.constraint.numerals import Bounds, integers, numbers
from sfumato.sample.constraint.pattern import PatternError, parse, parse_search
from sfumato.sample.constraint.validation import schema_fault

NOTHING = Alt(())
_COMMA = literal(",")
_TEXT = seq('"', Repeat(quoted(ANY_CHARACTER)), '"')
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_REST = seq(Repeat(quoted(ANY_CHARACTER)), '":')
_FORMATS = {
    "date": r"(19|20)\d\d-((0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "email": r"[a-z0-9]+([._-][a-z0-9]+)*@[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+)*\.[a-z]{2,10}",
    "ipv4": r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
    "ipv6": r"[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}",
    "hostname": r"[a-z]{1,16}(-[a-z0-9]{1,16})?(\.[a-z]{1,16}(-[a-z0-9]{1,16})?){0,3}",
    "duration": r"P([1-9]\d{0,3}[YMWD]|T[1-9]\d{0,3}[HMS])",
    "uri": r"https?://[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+)*\.[a-z]{2,10}(/[A-Za-z0-9._~-]+)*/?",
}
_FORMATS["date-time"] = f"{_FORMATS['date']}T{_FORMATS['time']}"
_MOST_PLACES = 5_000  # of a schema, as often as references lead there
_EVERYWHERE = ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref")
_ALL_TYPES = ("object", "array", "string", "number", "boolean", "null")


class Documents:
    """The documents of one schema."""

    def __init__(self, schema: Any, takes: Callable[[Any, Any], bool], *, depth: int = 3):
        """Prepare.

        Args:
            schema: the whole schema, known to be one.
            takes: whether a part of it takes a value; for `enum` beside other keywords.
            depth: how often a reference is followed within itself; and how deep a value is of which nothing is said.
        """
        self.root, self.takes, self.depth = schema, takes, depth
        self.impossible: list[str] = []
        """Why nothing fits some places of the schema."""
        self.nests = False
        """Whether the language would be another one at another depth."""
        self._places = 0
        self._referred: dict[str, Any] = {}

    def language(self) -> Language:
        """All of them.

        Raises:
            NotRegular: with the place and the keyword.
            ValueError: a reference to nothing, or a pattern that is none.
        """
        return self._of(self.root, "", ())

    def _of(self, schema: Any, at: str, within: tuple[str, ...]) -> Language:
        """Of the schema at a place, which stands within these references."""
        self._places += 1
        if self._places > _MOST_PLACES:
            raise TooLarge(f"more than {_MOST_PLACES} places")
        if schema is True or schema == {}:
            self.nests = True
            return any_value(self.depth)
        if schema is False:
            return self._nothing(at, "false takes no value")
        if "$ref" in schema:
            return self._reference(schema, at, within)
        for key in schema:
            if key not in NOTES and key not in _EVERYWHERE and not any(key in of for of in KEYWORDS.values()):
                raise NotRegular(f"{_at(at)}: {key!r} cannot be followed")
        if "allOf" in schema:
            return self._all_of(schema, at, within)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._any_of(schema, key, at, within)
        if "const" in schema or "enum" in schema:
            return self._values(schema, at)
        named = types(schema)
        if "type" not in schema:
            named = [kind for kind, keys in KEYWORDS.items() if any(key in schema for key in keys)] or _ALL_TYPES
        if not named:
            return self._nothing(at, "no type is left that all parts of the schema allow")
        return Alt(tuple(self._of_type(kind, schema, at, within) for kind in named))

    def _of_type(self, kind: str, schema: dict[str, Any], at: str, within: tuple[str, ...]) -> Language:
        if kind == "object":
            return self._object(schema, at, within)
        if kind == "array":
            return self._array(schema, at, within)
        if kind == "string":
            return self._string(schema, at)
        if kind in ("number", "integer"):
            return self._number(kind, schema, at)
        return Alt((literal("true"), literal("false"))) if kind == "boolean" else literal("null")

    def _reference(self, schema: dict[str, Any], at: str, within: tuple[str, ...]) -> Language:
        ref = schema["$ref"]
        if within.count(ref) >= self.depth:
            return self._too_deep(ref, at)
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return self._of(_placed(merged, at, rest, self.resolved(ref, at)), at, (*within, ref))

    def resolved(self, ref: str, at: str = "") -> Any:
        """The schema that a reference within the schema leads to."""
        if ref not in self._referred:
            found = self._found(ref, at)
            if why := schema_fault(found, self.root):
                raise ValueError(f"{_at(at)}: $ref {ref!r} leads to no schema: {why}")
            self._referred[ref] = found
        return self._referred[ref]

    def _found(self, ref: str, at: str) -> Any:
        if not ref.startswith("#"):
            raise ValueError(f"{_at(at)}: $ref {ref!r} leads out of the schema; copy what it names into $defs")
        found = self.root
        for part in ref.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise ValueError(f"{_at(at)}: $ref {ref!r} names nothing in the schema")
        if ref != "#" and not ref.startswith("#/"):
            raise NotRegular(f"{_at(at)}: $ref {ref!r} is no path")
        return found

    def _all_of(self, schema: dict[str, Any], at: str, within: tuple[str, ...]) -> Language:
        joined: Any = {key: value for key, value in schema.items() if key != "allOf"}
        for i, part in enumerate(schema["allOf"]):
            while isinstance(part, dict) and "$ref" in part:  # its keywords are needed, not its documents
                ref, rest = part["$ref"], {key: value for key, value in part.items() if key != "$ref"}
                if within.count(ref) >= self.depth:
                    return self._too_deep(ref, at)
                part = _placed(merged, f"{at}/allOf/{i}", rest, self.resolved(ref, f"{at}/allOf/{i}"))
                within = (*within, ref)
            joined = _placed(merged, at, joined, part)
        return self._of(joined, at, within)

    def _any_of(self, schema: dict[str, Any], key: str, at: str, within: tuple[str, ...]) -> Language:
        rest = {name: value for name, value in schema.items() if name != key}
        ways = [_placed(merged, f"{at}/{key}/{i}", way, rest) for i, way in enumerate(schema[key])]
        if key == "oneOf":
            for i, one in enumerate(ways):
                for j, other in enumerate(ways):
                    if i != j and not avoids(one, other, self.resolved):
                        raise NotRegular(f"{_at(at)}/oneOf: what {i} takes, {j} may take too")
        return Alt(tuple(self._of(way, f"{at}/{key}/{i}", within) for i, way in enumerate(ways)))

    def _values(self, schema: dict[str, Any], at: str) -> Language:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        rest = schema if "const" in schema else {key: value for key, value in schema.items() if key != "enum"}
        fitting = [value for value in values if _placed(self.takes, at, rest, value)]
        if not fitting:
            return self._nothing(at, f"no value of {'const' if 'const' in schema else 'enum'} fits the other keywords")
        return Alt(tuple(literal(_written(value)) for value in fitting))

    def _string(self, schema: dict[str, Any], at: str) -> Language:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if most is not None and least > most:
            return self._nothing(at, f"minLength {least} is above maxLength {most}")
        format_ = _FORMATS.get(schema.get("format", ""))
        if "pattern" not in schema and format_ is None:
            return seq('"', Repeat(quoted(ANY_CHARACTER), int(least), None if most is None else int(most)), '"')
        if "pattern" in schema and format_ is not None:
            raise NotRegular(f"{_at(at)}: pattern beside format")
        try:
            inner = parse(format_) if format_ is not None else parse_search(schema["pattern"])
        except PatternError as error:
            raise NotRegular(f"{_at(at)}/pattern: {error}") from None
        shortest, longest = lengths(inner)
        if shortest < least or (most is not None and (longest is None or longest > most)):
            inner = _cut(inner, int(least), None if most is None else int(most))
            if inner is None:
                raise NotRegular(f"{_at(at)}: pattern or format beside minLength or maxLength")
        return seq('"', quoted(inner), '"')

    def _number(self, kind: str, schema: dict[str, Any], at: str) -> Language:
        if schema.get("multipleOf", 1) != 1:
            raise NotRegular(f"{_at(at)}: 'multipleOf' cannot be followed")
        kind = "integer" if "multipleOf" in schema else kind
        for key in ("exclusiveMinimum", "exclusiveMaximum"):
            if isinstance(schema.get(key), bool):
                raise NotRegular(f"{_at(at)}: {key!r} of draft 4 cannot be followed")
        bounds = _bounds(schema)
        low, high = bounds.whole() if kind == "integer" else (0, 0)
        if bounds.empty or low > high:
            return self._nothing(at, "no number lies between its minimum and its maximum")
        language = integers(bounds) if kind == "integer" else numbers(bounds)
        if language == NOTHING:
            raise NotRegular(f"{_at(at)}: the bounds are closer together than a few decimals")
        return language

    def _array(self, schema: dict[str, Any], at: str, within: tuple[str, ...]) -> Language:
        first, least, most = schema.get("prefixItems", []), schema.get("minItems", 0), schema.get("maxItems")
        if schema.get("uniqueItems") and (most is None or most > 1):
            raise NotRegular(f"{_at(at)}: 'uniqueItems' cannot be followed")
        if most is not None and least > most:
            return self._nothing(at, f"minItems {least} is above maxItems {most}")
        rest = schema.get("items", True)
        if isinstance(rest, list):
            raise NotRegular(f"{_at(at)}: 'items' of older drafts cannot be followed")
        if rest is False:
            most = min(len(first), len(first) if most is None else most)
            if least > most:
                return self._nothing(at, f"minItems {least} is above the {most} items that are described")
        heads = [self._of(part, f"{at}/prefixItems/{i}", within) for i, part in enumerate(first)]
        others = self._of(rest, f"{at}/items", within) if most is None or most > len(first) else NOTHING
        return seq("[", _listed(heads, others, int(least), None if most is None else int(most)), "]")

    def _object(self, schema: dict[str, Any], at: str, within: tuple[str, ...]) -> Language:
        properties, required = dict(schema.get("properties", {})), schema.get("required", [])
        extra = schema.get("additionalProperties", True)
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        for name in required:
            properties.setdefault(name, extra)
        if len(set(required)) > (most if most is not None else len(properties)):
            return self._nothing(at, f"it requires more properties than maxProperties {most}")
        if not properties:
            return self._map(extra, least, most, at, within)
        if least > len(set(required)) or (most is not None and most < len(properties)):
            raise NotRegular(f"{_at(at)}: minProperties or maxProperties beside optional properties")
        pairs = []
        for name, part in properties.items():
            value = self._of(part, f"{at}/properties/{_pointer(name)}", within)
            pairs.append((seq(_written(name) + ":", value), name in required))
        return seq("{", _members(pairs), "}")

    def _map(self, value: Any, least: int, most: int | None, at: str, within: tuple[str, ...]) -> Language:
        """Any names, since none is described."""
        if most is not None and least > most:
            return self._nothing(at, f"minProperties {least} is above maxProperties {most}")
        if value is False:
            return seq("{}") if not least else self._nothing(at, "it needs a property, and may have none")
        language = self._of(value, f"{at}/additionalProperties", within)
        if least > 1:  # a name that comes twice counts once: they begin with different letters
            if least > len(_LETTERS):
                raise ValueError(f"{_at(at)}: minProperties {least} of any name; describe the properties")
            return seq(
                "{", _members([(seq('"', letter, _REST, language), True) for letter in _LETTERS[: int(least)]]), "}"
            )
        pair = seq(_TEXT, ":", language)
        return seq("{", Repeat(pair, least, most, _COMMA), "}")

    def _too_deep(self, ref: str, at: str) -> Language:
        self.nests = True
        return self._nothing(at, f"$ref {ref!r} leads to itself without an end")

    def _nothing(self, at: str, why: str) -> Language:
        self.impossible.append(f"{_at(at)}: {why}")
        return NOTHING


def _members(pairs: Sequence[tuple[Language, bool]]) -> Language:
    """Pairs in this order, required or not, with commas between those that are there."""
    behind: dict[bool, Language] = {False: Seq(), True: Seq()}  # by whether a pair stands before
    for pair, needed in reversed(pairs):
        ways = {False: seq(pair, behind[True]), True: seq(",", pair, behind[True])}
        behind = ways if needed else {begun: Alt((ways[begun], behind[begun])) for begun in ways}
    return behind[False]


def _listed(heads: Sequence[Language], others: Language, least: int, most: int | None) -> Language:
    """Items: the first ones by their place, then others, so many in all."""
    left = None if most is None else max(0, most - len(heads))
    count = len(heads) if most is None else min(len(heads), most)
    if not heads:
        return Repeat(others, least, left, _COMMA)
    more = Repeat(seq(",", others), max(0, least - len(heads)), left)
    language: Language = more
    for i in range(count - 1, -1, -1):
        language = seq("," if i else "", heads[i], language)
        if i >= least:
            language = Alt((language, Seq()))
    return language


@lru_cache(maxsize=8)
def any_value(depth: int) -> Language:
    """Any value, with lists and objects within each other up to a depth."""
    ways: list[Language] = [_TEXT, numbers(Bounds()), *map(literal, ("true", "false", "null"))]
    if depth > 0:
        inner = any_value(depth - 1)
        ways += [seq("[", Repeat(inner, between=_COMMA), "]"), any_object(inner)]
    return Alt(tuple(ways))


def any_object(value: Language) -> Language:
    """An object of any names with these values."""
    return seq("{", Repeat(seq(_TEXT, ":", value), between=_COMMA), "}")


def _cut(language: Language, least: int, most: int | None) -> Language | None:
    """The texts of a length, where the expression is one repeated character."""
    parts = language.parts if isinstance(language, Seq) else (language,)
    while len(parts) == 1 and isinstance(parts[0], Seq):
        parts = parts[0].parts
    if len(parts) != 1 or not isinstance(parts[0], Repeat):
        return None
    one, repeat = parts[0].part, parts[0]
    while isinstance(one, Seq) and len(one.parts) == 1:
        one = one.parts[0]
    if not isinstance(one, Chars):
        return None
    limits = [limit for limit in (repeat.most, most) if limit is not None]
    low, high = max(repeat.least, least), min(limits, default=None)
    return NOTHING if high is not None and low > high else Repeat(one, low, high)


def _written(value: Any) -> str:
    """The value as JSON; what UTF-8 cannot carry is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text


def _bounds(schema: dict[str, Any]) -> Bounds:
    """Of a number: the tighter of the two lower and of the two upper bounds."""

    def tightest(plain: str, strict: str, sign: int) -> tuple[Fraction | None, bool]:
        known = [(sign * Fraction(str(schema[key])), key == strict) for key in (plain, strict) if key in schema]
        return (sign * max(known)[0], max(known)[1]) if known else (None, False)

    low, above = tightest("minimum", "exclusiveMinimum", 1)
    high, below = tightest("maximum", "exclusiveMaximum", -1)
    return Bounds(low, high, above, below)


def _placed(function: Callable[[Any, Any], Any], at: str, one: Any, other: Any) -> Any:
    try:
        return function(one, other)
    except NotRegular as reason:
        raise NotRegular(f"{_at(at)}: {reason}") from None


def _at(pointer: str) -> str:
    return f"at {pointer}" if pointer else "at the root"


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
