"""How answers are judged: one file a metric, each with a `score`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

PACKAGES = {"bleu": "sacrebleu", "chrf": "sacrebleu", "sari": "sacrebleu", "rouge": "rouge_score", "coverage": "nltk"}


@dataclass(frozen=True)
class Figure:
    """One number about a set of answers."""

    value: float
    stderr: float
    """Standard error over answers of this kind."""
    note: str = ""
    """What is needed to get the number again, such as a signature."""


def needed(metrics: Sequence[str]) -> None:
    """Refuse metrics whose package is missing, before there is anything to judge.

    Raises:
        ValueError: names the first one.
    """
    for name in metrics:
        if name in PACKAGES and find_spec(PACKAGES[name]) is None:
            raise ValueError(f"{name} needs {PACKAGES[name]}, not installed here: pip install 'sfumato[evaluate]'")


def judge(
    metrics: Sequence[str],
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    found: Sequence[Mapping[str, Any]],
) -> dict[str, Figure]:
    """The figures of all metrics, by name.

    Args:
        metrics: files of this room.
        answers: one text a question.
        references: the right answers to each question.
        found: the record that each question was made of.

    Raises:
        ValueError: records that a metric cannot use, or a package that it needs and that is missing.
    """
    needed(metrics)
    figures: dict[str, Figure] = {}
    for name in metrics:
        figures |= import_module(f"{__name__}.{name}").score(answers, references, found)
    return figures


def mean(values: Sequence[float]) -> Figure:
    """Average of one value an answer, in percent."""
    count = len(values)
    middle = sum(values) / count
    spread = sum((value - middle) ** 2 for value in values)
    return Figure(100 * middle, 100 * math.sqrt(spread / (count - 1) / count) if count > 1 else 0.0)
