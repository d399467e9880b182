"""What the package `jsonschema` knows: whether something is a schema, and whether a schema takes a value."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from sfumato.sample.constraint.bytewise import ByteAutomaton, TooLarge, determinised
from sfumato.sample.constraint.merge import NotRegular
from sfumato.sample.constraint.pattern import PatternError, parse_search

INSTALL = "pip install 'sfumato[constrain]'"


def checked(schema: Mapping[str, Any] | bool | str) -> Any:
    """The schema as Python values, if it is one.

    Raises:
        ValueError: it is not, or `jsonschema` is not installed.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"json_schema: not JSON: {error}") from None
    try:
        found = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"json_schema: not JSON: {error}") from None
    if not isinstance(found, (dict, bool)):
        raise ValueError(f"json_schema: expected an object, got {type(found).__name__}")
    if why := schema_fault(found, found):
        raise ValueError(f"json_schema: {why}")
    return found


def schema_fault(part: Any, whole: Any) -> str:
    """Why a part of a schema (or all of it) is no schema, with the place in it; nothing if it is one."""
    library = _library()
    dialect = whole.get("$schema", "") if isinstance(whole, dict) else ""
    if not isinstance(dialect, str) or "draft-03" in dialect:
        return f"at /$schema: expected the address of draft 4 or later, got {dialect!r}"
    kind = library.validators.validator_for(whole, default=library.Draft202012Validator)
    try:
        kind.check_schema(part)
    except library.SchemaError as error:
        where = "".join(f"/{step}" for step in error.absolute_path)
        return f"at {where or 'the root'}: {error.message}"
    return ""


def taker(schema: Any) -> Callable[[Any, Any], bool]:
    """A function (part, value): whether a part of the schema takes a value. It reads nothing but the schema.

    It raises ValueError for a reference to nothing, and NotRegular for what only Python's `re`, which may take for
    ever, would tell.
    """
    library = _library()
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = library.validators.validator_for(schema, default=library.Draft202012Validator)
    schema = _without_dialect(schema)  # by which jsonschema would choose another validator
    several = any(_names_dialect(part) for part in (schema.values() if isinstance(schema, dict) else ()))
    ours = dict.fromkeys(_UNFOLLOWED, _refuse) | {"pattern": _pattern, "additionalProperties": _only_described(kind)}
    whole = library.validators.extend(kind, ours)(schema, registry=Registry())

    def takes(part: Any, value: Any) -> bool:
        if several:
            raise NotRegular("enum or const beside parts with a $schema of their own")
        try:
            return whole.evolve(schema=_without_dialect(part)).is_valid(value)
        except Unresolvable as error:
            raise ValueError(f"a $ref beside enum or const names nothing in the schema: {error.ref}") from None

    return takes


def _without_dialect(schema: Any) -> Any:
    return {key: value for key, value in schema.items() if key != "$schema"} if isinstance(schema, dict) else schema


def _names_dialect(part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(part.get("$schema"), str) or any(map(_names_dialect, part.values()))
    return isinstance(part, list) and any(map(_names_dialect, part))


_UNFOLLOWED = ("patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef")


def _refuse(_: Any, asked: Any, value: Any, schema: Any) -> Iterator[Any]:
    raise NotRegular("enum or const beside what cannot be followed")


def _only_described(kind: Any) -> Callable[..., Any]:
    """`additionalProperties` but for names that patterns describe."""
    plain = kind.VALIDATORS["additionalProperties"]

    def additional(validator: Any, asked: Any, value: Any, schema: Any) -> Iterator[Any]:
        found = _refuse if "patternProperties" in schema else plain
        return found(validator, asked, value, schema)

    return additional


def _pattern(_: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    """`pattern` by an automaton, in time linear in the value."""
    automaton = _searcher(pattern)
    if isinstance(value, str) and not (automaton and automaton.takes(value.encode(errors="surrogatepass"))):
        yield _library().ValidationError("does not match")


@lru_cache(maxsize=64)
def _searcher(pattern: str) -> ByteAutomaton | None:
    try:
        return determinised(parse_search(pattern))
    except (PatternError, TooLarge) as error:
        raise NotRegular(f"pattern: {error}") from None


def _library() -> Any:
    try:
        import jsonschema
    except ImportError:
        raise ValueError(f"json_schema: needs the package jsonschema; {INSTALL}") from None
    return jsonschema
