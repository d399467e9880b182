"""BLEU by sacrebleu, whose signature says how (Post 2018, 1804.08771)."""

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure

RESAMPLES = 100  # of the answers, for the standard error


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Corpus BLEU, 0 to 100; an answer may have any number of references."""
    from sacrebleu.metrics.bleu import BLEU

    return {"bleu": corpus(BLEU(), answers, references)}


def corpus(metric: Any, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Figure:
    """A metric of sacrebleu over all answers, with a bootstrapped standard error."""
    draw, count = random.Random(0), len(answers)  # sacrebleu's own resampling fails where some scores are 0
    scores = [_score(metric, answers, references, range(count))]
    if count > 1:
        scores += [_score(metric, answers, references, draw.choices(range(count), k=count)) for _ in range(RESAMPLES)]
    stderr = statistics.stdev(scores[1:]) if count > 1 else 0.0
    return Figure(scores[0], stderr, str(metric.get_signature()))


def _score(metric: Any, answers: Sequence[str], references: Sequence[Sequence[str]], chosen: Sequence[int]) -> float:
    most = max(len(references[i]) for i in chosen)
    streams = [[refs[k] if k < len(refs) else None for refs in (references[i] for i in chosen)] for k in range(most)]
    return float(metric.corpus_score([answers[i] for i in chosen], streams).score)
