"""Evaluation: how well a model predicts text."""

from sfumato.evaluate.likelihood import Likelihood, likelihood

__all__ = ["Likelihood", "likelihood"]
