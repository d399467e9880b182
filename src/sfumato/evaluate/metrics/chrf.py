"""Character n-gram F-score by sacrebleu (Popovic 2015); for a small model it tells more than BLEU."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure
from sfumato.evaluate.metrics.bleu import corpus


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """chrF2, 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    return {"chrf": corpus(CHRF(), answers, references)}
