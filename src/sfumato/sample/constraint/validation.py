"""What the package `jsonschema` knows: whether something is a schema, and whether a schema takes a value."""

import json
from collections.abc import Callable, Mapping
from typing import Any

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
    library = _library()
    try:
        library.validators.validator_for(found, default=library.Draft202012Validator).check_schema(found)
    except library.SchemaError as error:
        where = "".join(f"/{part}" for part in error.absolute_path)
        raise ValueError(f"json_schema: at {where or 'the root'}: {error.message}") from None
    return found


def taker(schema: Any) -> Callable[[Any, Any], bool]:
    """A function (part, value): whether a part of the schema takes a value."""
    library = _library()
    whole = library.validators.validator_for(schema, default=library.Draft202012Validator)(schema)
    return lambda part, value: whole.evolve(schema=part).is_valid(value)


def _library() -> Any:
    try:
        import jsonschema
    except ImportError:
        raise ValueError(f"json_schema: needs the package jsonschema; {INSTALL}") from None
    return jsonschema
