"""Pairs of answers of which one is preferred: {prompt or messages, chosen, rejected}, and a weight where there is one.

Answers are texts. Records of another kind go through the templates of their source, as in
`prompt = "{instruction} {input}"`, `response = "{chosen}"`; what was refused is under `rejected`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sfumato.config import Source
from sfumato.data.sources import CONVERSATION, Chat, Report, fault, records
from sfumato.data.template import filled


@dataclass(frozen=True)
class Preference:
    """An answer that is better than another."""

    prompt: str | Chat
    """What both answer: a text, or the turns of a conversation."""
    chosen: str
    rejected: str
    weight: float = 1.0
    """How much the pair counts beside the others."""


def preferences(source: Source, report: Report) -> Iterator[Preference]:
    """The pairs of one source, in a fixed order; those whose answers are the same say nothing and are left out.

    Args:
        source: where they are; its weight multiplies theirs.
        report: gets what is broken.

    Raises:
        DataError: nothing to read there, or a broken record while `report.on_error` is "stop".
    """
    for place, record in records(source, report):
        try:
            pair = _preference(source, record)
        except ValueError as error:
            report.broken(place, str(error))
            continue
        if pair.chosen != pair.rejected:
            yield pair


def _preference(source: Source, record: Mapping[str, Any]) -> Preference:
    if source.prompt:
        prompt: Any = filled(source.prompt, record, "prompt")
        chosen = _answer("response", filled(source.response, record, "response"))
    else:
        prompt = _field(record, CONVERSATION if CONVERSATION in record else "prompt")
        chosen = _answer("chosen", _field(record, "chosen"))
    if why := fault(prompt):
        raise ValueError(why)
    if isinstance(prompt, list):
        if not prompt or prompt[-1]["role"] == "assistant":
            raise ValueError("messages must end with the turn that is answered, not with an answer")
        prompt = tuple((message["role"], message["content"]) for message in prompt)
    rejected = _answer("rejected", _field(record, "rejected"))
    return Preference(prompt, chosen, rejected, source.weight * _weight(record.get("weight", 1.0)))


def _field(record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise ValueError(f"no field {key!r}; it has {', '.join(map(str, list(record)[:8])) or 'none'}")
    return record[key]


def _answer(name: str, found: Any) -> str:
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{name}: expected a text, got {found!r:.60}")
    if why := fault(found):
        raise ValueError(f"{name}: {why}")
    return found


def _weight(found: Any) -> float:
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < math.inf:
        raise ValueError(f"weight: expected a number above 0, got {found!r:.60}")
    return float(found)
