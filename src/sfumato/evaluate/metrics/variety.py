"""How varied the answers are by themselves: what a metric that compares with references does not see."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure
from sfumato.evaluate.text import distinct, repetition


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Different pairs of words among all, and groups of four that an answer repeats; percent, of as many as there are.

    Of the references too, since both depend on how much text there is.
    """
    real = [refs[0] for refs in references]
    return {
        "distinct2": Figure(100 * distinct(answers, 2), 0.0, f"references {100 * distinct(real, 2):.1f}"),
        "repeat4": Figure(100 * repetition(answers, 4), 0.0, f"references {100 * repetition(real, 4):.1f}"),
    }
