"""The lines of a file of prompts or texts, each with its place and its number."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """A line of the input, or a row of a table."""

    number: int
    """Its place among all, blank lines left out."""
    where: str
    """file:line"""
    content: dict[str, Any]
    """Its keys and values."""
    error: str = ""
    """Why there is none."""


def records_of(lines: Iterable[bytes], name: str, key: str, *, number: int = 0, line: int = 0) -> Iterator[Record]:
    """The records of a file's lines; blank lines are left out.

    Args:
        lines: with or without their ends.
        name: of the file, in messages.
        key: of a line that is plain text; "" = the lines are JSON.
        number: of the first record.
        line: lines of the file before these.
    """
    for at, raw in enumerate(lines, line + 1):
        if not raw.strip():
            continue
        try:
            yield Record(number, f"{name}:{at}", _content(raw, key, first=at == 1))
        except ValueError as error:
            yield Record(number, f"{name}:{at}", {}, str(error))
        number += 1


def fault(content: Any) -> str:
    """Why a line of the output could not hold this; "" = it could."""
    try:
        json.dumps(content, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return "not valid JSON (a number that is NaN or infinite or too long, no text or number, or too deep nesting)"
    return ""


def _content(raw: bytes, key: str, *, first: bool) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    if key:
        return {key: text}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON (a number that is too long, or too deep nesting)") from None
    if why := fault(content):
        raise ValueError(why)
    if not isinstance(content, dict):
        raise ValueError(f'expected an object such as {{"prompt": "..."}}, got {text[:40]}')
    return content
