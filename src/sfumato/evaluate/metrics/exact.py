"""Exact match, as SQuAD counts it (Rajpurkar et al. 2016): apart from case, punctuation and spaces."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure, mean


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Share of the answers that are one of their references, in percent."""
    right = [float(plain(answer) in map(plain, refs)) for answer, refs in zip(answers, references, strict=True)]
    return {"exact": mean(right)}


def plain(text: str) -> str:
    """Lower case, without punctuation and needless space."""
    kept = "".join(" " if unicodedata.category(c)[0] in "PSZ" else c for c in text.casefold())
    return " ".join(kept.split())
