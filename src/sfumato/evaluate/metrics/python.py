"""Whether the prompt, with the answer in its hole, is Python that can be parsed. Nothing is ever executed."""

import ast
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure, mean

FIELDS = ("before", "after")


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Share of the answers that leave their record's `before` + answer + `after` valid Python, in percent."""
    valid = []
    for answer, record in zip(answers, found, strict=True):
        before, after = (record.get(name) for name in FIELDS)
        if not isinstance(before, str) or not isinstance(after, str):
            raise ValueError(f"python: expected records with the texts {' and '.join(map(repr, FIELDS))}")
        valid.append(float(_parses(before + answer + after)))
    return {"python": mean(valid)}


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):  # of dubious escapes
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
