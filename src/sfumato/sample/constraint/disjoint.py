"""Whether two schemas of a `oneOf` never take the same document, as far as that can be seen without search."""

from collections.abc import Callable
from typing import Any

from sfumato.sample.constraint.merge import KEYWORDS, same, types

Resolve = Callable[[str], Any]


def avoids(one: Any, other: Any, resolve: Resolve, depth: int = 6) -> bool:
    """Whether no document written for one schema is taken by the other; False where that is not plain to see.

    Documents written for a schema have the properties that it describes or requires, and no others.
    """
    one, other = _followed(one, resolve), _followed(other, resolve)
    if depth == 0 or not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    first, second = _values(one), _values(other)
    if first is not None and second is not None:
        return not any(same(a, b) for a in first for b in second)
    kinds, others = _kinds(one), _kinds(other)
    if kinds and others and not kinds & others:
        return True
    plain = not any(key in one for key in ("$ref", "allOf", "anyOf", "oneOf"))
    if not plain or (kinds or _implied(one)) != {"object"}:
        return False
    return _objects_avoid(one, other, resolve, depth)


def _objects_avoid(one: dict[str, Any], other: dict[str, Any], resolve: Resolve, depth: int) -> bool:
    needed, described = set(one.get("required", ())), one.get("properties", {})
    known = other.get("properties", {})
    if described or needed:  # else it has any properties
        if set(other.get("required", ())) - set(described) - needed:
            return True
    if other.get("additionalProperties", True) is False and needed - set(known):
        return True
    return any(avoids(described.get(name, True), known[name], resolve, depth - 1) for name in needed if name in known)


def _followed(schema: Any, resolve: Resolve) -> Any:
    for _ in range(20):
        if not isinstance(schema, dict) or "$ref" not in schema or len(schema) > 1:
            break
        schema = resolve(schema["$ref"])
    return schema


def _values(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _kinds(schema: dict[str, Any]) -> set[str]:
    """The types of its values; empty if they are not known. Whole numbers are numbers."""
    values = _values(schema)
    if values is not None:
        return {_kind(value) for value in values}
    return {"number" if kind == "integer" else kind for kind in types(schema)}


def _implied(schema: dict[str, Any]) -> set[str]:
    """The types of the documents that are written where none is named."""
    return {kind for kind, keywords in KEYWORDS.items() if any(key in schema for key in keywords)}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), ((int, float), "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"
