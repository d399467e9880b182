"""Evaluation: how well a model predicts text, what it writes, and what that costs."""

from sfumato.evaluate.calibration import Band, Bin, calibration
from sfumato.evaluate.choice import Choice, choose
from sfumato.evaluate.embedding import Probe, Retrieval, probe, retrieval
from sfumato.evaluate.judge import Judgement, judge
from sfumato.evaluate.likelihood import Likelihood, likelihood
from sfumato.evaluate.passage import Passage
from sfumato.evaluate.text import (
    Divergence,
    UnigramEntropy,
    distinct,
    divergence,
    repetition,
    self_bleu,
    unigram_entropy,
)

__all__ = [
    "Band",
    "Bin",
    "Choice",
    "Divergence",
    "Judgement",
    "Likelihood",
    "Passage",
    "Probe",
    "Retrieval",
    "UnigramEntropy",
    "calibration",
    "choose",
    "distinct",
    "divergence",
    "judge",
    "likelihood",
    "probe",
    "repetition",
    "retrieval",
    "self_bleu",
    "unigram_entropy",
]
