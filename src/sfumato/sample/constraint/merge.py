"""Schemas joined into one that asks for all they ask: what `allOf` means, and keywords beside `$ref` or `anyOf`."""

from typing import Any

NOTES = frozenset(
    ("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment")
    + ("$schema", "$id", "$anchor", "$defs", "definitions", "contentMediaType", "contentEncoding", "strict", "name")
)
"""Keywords that exclude no document."""
KEYWORDS = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
}
"""Keywords that speak of values of one type; where no type is named, documents of these types are written."""
_HIGHER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_LOWER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


class NotRegular(Exception):
    """What stands at a place of the schema is beyond automata."""


def merged(first: Any, second: Any) -> Any:
    """A schema that takes what both take.

    Raises:
        NotRegular: keywords that have no join of their own.
    """
    if first is True or first == {}:
        return second
    if second is True or second == {}:
        return first
    if first is False or second is False:
        return False
    joined = dict(first)
    for key, value in second.items():
        joined[key] = value if key not in joined else _joined(key, joined[key], value)
    for one, other in ((first, second), (second, first)):
        _check_extra(one, other)
    return joined


def _joined(key: str, one: Any, other: Any) -> Any:
    if one == other or key in NOTES:
        return one
    if key in _HIGHER:
        return max(one, other)
    if key in _LOWER:
        return min(one, other)
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key == "properties":
        shared = {name: merged(one[name], other[name]) for name in one if name in other}
        return {**one, **other, **shared}
    if key in ("items", "additionalProperties"):
        return merged(one, other)
    if key == "enum":
        return [value for value in one if any(same(value, there) for there in other)]
    if key == "type":
        return _common_types(one, other)
    if key == "allOf":
        return [*one, *other]
    raise NotRegular(f"two different {key} at a time")


def _check_extra(one: dict[str, Any], other: dict[str, Any]) -> None:
    """`additionalProperties` speaks of the properties beside it: it must not meet others."""
    extra = one.get("additionalProperties", True)
    if extra is not True and extra != {} and set(other.get("properties", ())) - set(one.get("properties", ())):
        raise NotRegular("additionalProperties beside properties of another schema")


def types(schema: dict[str, Any]) -> list[str]:
    """The types that a schema names; none if it names none."""
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else list(named)


def _common_types(one: Any, other: Any) -> list[str]:
    first, second = types({"type": one}), types({"type": other})
    both = [name for name in first if name in second]
    if ("number" in first and "integer" in second) or ("integer" in first and "number" in second):
        both += [] if "integer" in both or "number" in both else ["integer"]
    return both


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values, for which true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other
