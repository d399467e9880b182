"""From a record to the value that a source wants of it: one of its fields, a conversation, a pair, or all of it."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from sfumato.config import Source
from sfumato.data.document import Pair
from sfumato.data.template import fields_of, filled

CONVERSATION, PAIR = "messages", ("prompt", "response")  # keys of a record that lacks the field that was asked for
View = Source | None  # what of a record is wanted: the document that a source makes of it, or all of it


def from_json(raw: bytes, view: View) -> Any:
    """What is wanted of one line of JSON, or the ValueError that says why there is none."""
    try:
        record = json.loads(_utf8(raw))
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return ValueError("JSON nested too deeply")
    except ValueError as error:
        return error
    if not isinstance(record, dict):
        return ValueError(f"expected a JSON object, got {type(record).__name__}")
    return from_record(view, record)


def from_record(view: View, record: Mapping[str, Any]) -> Any:
    """What is wanted of a record, or the ValueError that says why there is none."""
    fields = wanted(view, record)
    return from_fields(view, {name: record[name] for name in fields}) if fields else missing(view, record)


def wanted(view: View, names: Collection[str]) -> list[str]:
    """The fields that make a record's document; empty where it lacks one.

    Those that the source's templates name, or its key, or else a conversation or a pair.
    """
    if view is None:
        return list(names)
    if view.response:
        fields = fields_of(view.response, "response") + (fields_of(view.prompt, "prompt") if view.prompt else [])
        return list(dict.fromkeys(fields)) if all(field in names for field in fields) else []
    if view.field in names or CONVERSATION in names:
        return [view.field if view.field in names else CONVERSATION]
    return list(PAIR) if all(name in names for name in PAIR) else []


def from_fields(view: View, record: Mapping[str, Any]) -> Any:
    """The document that the wanted fields make: one value, a pair, or the ValueError that says why there is none."""
    if view is None:
        return dict(record)
    if not view.response:
        columns = list(record.values())
        return columns[0] if len(columns) == 1 else Pair(*columns)
    try:
        response = filled(view.response, record, "response")
        return Pair(filled(view.prompt, record, "prompt"), response) if view.prompt else response
    except ValueError as error:
        return error


def missing(view: View, names: Any) -> ValueError:
    """Why a record, or a table, with these fields makes no document."""
    if view is None:
        return ValueError("the record is empty")
    keys = [view.field]
    if view.response:
        keys = fields_of(view.response, "response") + (fields_of(view.prompt, "prompt") if view.prompt else [])
    key = next((key for key in keys if key not in names), keys[0])
    return ValueError(f"no field {key!r}; it has {', '.join(map(str, list(names)[:8])) or 'none'}")


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte 0x{raw[error.start]:02x} at byte {error.start})") from None
