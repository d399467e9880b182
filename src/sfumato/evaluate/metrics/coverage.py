"""How many of the words that were asked for appear, as in CommonGen (Lin et al. 2020, 1911.03705)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure, mean

FIELD = "concepts"


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Share of each record's `concepts` whose stem is that of a word of the answer, in percent."""
    from nltk.stem.porter import PorterStemmer  # comes with rouge-score

    stem = PorterStemmer().stem
    shares = []
    for answer, record in zip(answers, found, strict=True):
        wanted = record.get(FIELD)
        if not isinstance(wanted, list) or not wanted or not all(isinstance(word, str) for word in wanted):
            raise ValueError(f"coverage: expected records with a list of words as {FIELD!r}, got {wanted!r:.60}")
        words = {stem(word) for word in re.findall(r"\w+", answer.lower())}
        shares.append(sum(stem(word.lower()) in words for word in wanted) / len(wanted))
    return {"coverage": mean(shares)}
