"""Guidance: what changes the network's scores before a sampler reads them. A new kind is one new file here."""

from collections.abc import Sequence

from sfumato.sample.guidance.by_classifier import ByClassifier
from sfumato.sample.guidance.classifier_free import ClassifierFree
from sfumato.sample.guidance.seam import Branch, Guidance

__all__ = ["Branch", "ByClassifier", "ClassifierFree", "Guidance", "as_guidance"]


def as_guidance(given: Guidance | Sequence[Guidance] | float, *, whole: bool = False) -> tuple[Guidance, ...]:
    """What a caller may write for guidance: one, several, or the scale of classifier-free guidance.

    Args:
        given: that.
        whole: with a scale, hide all of the prompt (`ClassifierFree.whole`).
    """
    if isinstance(given, (int, float)):
        return (ClassifierFree(float(given), whole=whole),)
    return tuple(given) if isinstance(given, Sequence) else (given,)
