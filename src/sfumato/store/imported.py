"""Feedback that was given elsewhere, as JSON lines.

    {"prompt": "When do you open?", "response": "At nine.", "correction": "At eight."}
    {"prompt": "When do you open?", "response": "At nine.", "thumb": -1}               or "rating": 1 to 5
    {"prompt": "When do you open?", "chosen": "At eight.", "rejected": "At nine."}

A prompt is what a user said, or a list of messages; with "kind": "completion", a text that goes on. There may be
"owner", "comment" and "model". The same line is the same feedback, however often it is read.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.store.records import Feedback, Response

SAID = ("correction", "thumb", "rating")
KNOWN = {"prompt", "response", *SAID, "chosen", "rejected", "kind", "owner", "comment", "model"}


def read_feedback(path: Path) -> Iterator[tuple[Feedback, list[Response]]]:
    """The feedback of a file, each with the responses that it is about.

    Raises:
        ValueError: a line that is no feedback; names it.
        OSError: the file cannot be read.
    """
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError("expected a JSON object")
                    yield _feedback(record)
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {error}") from None


def _feedback(record: Mapping[str, Any]) -> tuple[Feedback, list[Response]]:
    if unknown := sorted(record.keys() - KNOWN):
        raise ValueError(f"unknown key {unknown[0]!r}; expected some of {', '.join(sorted(KNOWN))}")
    if not record.get("prompt"):
        raise ValueError("prompt: missing")
    about = {name: record[name] for name in ("owner", "comment") if name in record}
    identity = _id("feedback", record)
    if "chosen" in record:
        better, worse = _response(record, "chosen"), _response(record, "rejected")
        feedback = Feedback(id=identity, response_id=better.id, kind="preference", over=worse.id, **about)
        return feedback, [better, worse]
    said = [name for name in SAID if name in record]
    if len(said) != 1:
        raise ValueError(f"expected one of {', '.join(SAID)}, or chosen and rejected; got {len(said)}")
    response = _response(record, "response")
    value = {"correction" if said[0] == "correction" else "value": record[said[0]]}
    return Feedback(id=identity, response_id=response.id, kind=said[0], **value, **about), [response]


def _response(record: Mapping[str, Any], name: str) -> Response:
    if not isinstance(record.get(name), str):
        raise ValueError(f"{name}: expected a text, got {record.get(name)!r:.60}")
    kind, prompt = record.get("kind", "chat"), record["prompt"]
    if kind == "chat" and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return Response(
        id=_id("response", {"prompt": prompt, "text": record[name]}),
        kind=kind,
        model=record.get("model", "imported"),
        model_version="imported",
        seed=0,
        prompt=prompt,
        completion=record[name],
    )


def _id(what: str, content: Mapping[str, Any]) -> str:
    return f"{what}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]}"
