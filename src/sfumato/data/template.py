"""Prompts and responses made out of a record's fields: `Translate to French: {en}` and `{fr[0]}`."""

import re
import string
from collections.abc import Mapping
from typing import Any

_FIELD = re.compile(r"(\w[\w -]*)(?:\[(\d+)\])?")


def fields_of(template: str, name: str) -> list[str]:
    """The fields that a template names, in order.

    Args:
        template: text with `{field}`, or `{field[0]}` for one of a list; `{{` and `}}` are braces.
        name: what to call the template in messages.

    Raises:
        ValueError: it is malformed, or names nothing.
    """
    fields = [field for _, field, _ in _parts(template, name) if field]
    if not fields:
        raise ValueError(f"{name}: expected a text with fields of the records such as {{text}}, got {template!r}")
    return fields


def filled(template: str, record: Mapping[str, Any], name: str = "template") -> str:
    """The template with a record's values: a list as `a, b`, a mapping as `key: value; key: value`.

    Raises:
        ValueError: a field is missing, holds nothing that can be written, or is shorter than asked for.
    """
    return "".join(
        text + (_value(record, field, place) if field else "") for text, field, place in _parts(template, name)
    )


def _parts(template: str, name: str) -> list[tuple[str, str, int | None]]:
    """Text, the field behind it ("" = none), and which entry of it."""
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{name}: {error} in {template!r}; a brace itself is written {{{{ or }}}}") from None
    parts = []
    for text, field, style, conversion in found:
        match = _FIELD.fullmatch(field) if field else None
        if field is not None and (not match or style or conversion):
            raise ValueError(f"{name}: expected {{field}} or {{field[0]}}, got {{{field}}} in {template!r}")
        parts.append((text, match[1] if match else "", int(match[2]) if match and match[2] else None))
    return parts


def _value(record: Mapping[str, Any], field: str, place: int | None) -> str:
    if field not in record:
        raise ValueError(f"no field {field!r}; it has {', '.join(map(str, list(record)[:8])) or 'none'}")
    value = record[field]
    if place is not None:
        if not isinstance(value, list) or place >= len(value):
            raise ValueError(f"{field}[{place}]: expected a list that is long enough, got {value!r:.60}")
        value = value[place]
    if isinstance(value, list):
        return ", ".join(_plain(one, field) for one in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_plain(one, field)}" for key, one in value.items() if one is not None)
    return _plain(value, field)


def _plain(value: Any, field: str) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError(f"{field}: expected a text or a number, got {value!r:.60}")
    return str(value)
