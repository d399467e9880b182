"""ROUGE by rouge-score (Lin 2004): overlap with a reference in words, pairs of words and longest common sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure, mean

KINDS = ("rouge1", "rouge2", "rougeL")


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """F-measures with stemmed words, 0 to 100; of several references the best counts."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    best = [scorer.score_multi(list(refs), answer) for answer, refs in zip(answers, references, strict=True)]
    return {kind: mean([one[kind].fmeasure for one in best]) for kind in KINDS}
