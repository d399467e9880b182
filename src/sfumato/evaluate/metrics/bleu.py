"""BLEU by sacrebleu, whose signature says how (Post 2018, 1804.08771)."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure

RESAMPLES = 500  # of the answers, for the standard error


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Corpus BLEU, 0 to 100; an answer may have any number of references."""
    from sacrebleu.metrics.bleu import BLEU

    return {"bleu": corpus(BLEU(), answers, references)}


def corpus(metric: Any, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Figure:
    """A metric of sacrebleu over all answers, with a bootstrapped standard error."""
    most = max(map(len, references))
    streams = [[refs[i] if i < len(refs) else None for refs in references] for i in range(most)]
    found = metric.corpus_score(list(answers), streams, n_bootstrap=RESAMPLES if len(answers) > 1 else 1)
    stderr = float(found._ci) / 1.96 if len(answers) > 1 else 0.0
    return Figure(float(found.score), stderr, str(metric.get_signature()))
