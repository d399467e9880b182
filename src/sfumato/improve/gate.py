"""The gate: whether a candidate may take the current model's place. A rule about numbers, which it names.

1. What the current model can do must stay: a held-out text may cost the candidate at most `tolerance` nats per token
   more (0.03 = 3 % more perplexity). The upper end of the confidence interval counts: where the text is too short to be
   sure, the candidate is refused.
2. What is new must have been learned: held-out answers that users wrote or liked, or held-out parts of new documents,
   cost less, or held-out pairs are told apart better, and none of it is worse. Again the confidence interval counts.

Both models met the same noise, so the intervals are those of paired differences: Student's t with as many degrees of
freedom as there are rows, less one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from sfumato.config import option
from sfumato.evaluate.paired import Difference


@dataclass(frozen=True)
class Rule:
    """How much has to be shown."""

    tolerance: float = option(0.03, "how much more held-out text may cost, in nats per token", at_least=0)
    confidence: float = option(0.95, "of the intervals, one-sided", at_least=0.5, below=1)
    least: int = option(5, "fewer held-out answers or pairs than this show nothing", at_least=2)


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate passed, and why, in one line for each thing that was looked at."""

    passed: bool
    reasons: tuple[str, ...]
    """Where it was refused, the reasons for that come first."""


def judge(
    texts: Mapping[str, Difference],
    wished: Mapping[str, Difference],
    margin: Difference | None = None,
    rule: Rule | None = None,
) -> Verdict:
    """Decide.

    Args:
        texts: what must stay, by name: nats per token of held-out text.
        wished: what is to be learned, by name: nats per token of held-out answers, of new documents.
        margin: likewise: by how many nats the better of two held-out answers is the more probable one.
        rule: how much has to be shown.
    """
    rule = rule or Rule()
    against, fine = [], []
    if not texts:
        against.append("no held-out text to show that nothing was forgotten; give --held-out FILE")
    for name, change in texts.items():
        worst = _upper(change, rule)
        said = f"{name}: {_told(change)}; at worst {worst:+.4f}, {rule.tolerance:+.4f} is allowed"
        (fine if worst <= rule.tolerance else against).append(said)
    learned = []
    looked_at = [(name, change, 1) for name, change in wished.items()]
    looked_at += [("held-out pairs", margin, -1)] if margin else []
    for name, change, sign in looked_at:
        if change.rows < rule.least:
            fine.append(f"{name}: {change.rows}, too few to show anything (at least {rule.least})")
            continue
        gain, half = -sign * change.difference, _quantile(rule.confidence, change.rows - 1) * change.stderr
        said = f"{name}: {_told(change)}; better by {gain - half:+.4f} at least"
        if not math.isfinite(gain) or gain + half < 0:
            against.append(f"{said}: worse than before")
        else:
            learned.append(gain - half > 0)
            fine.append(said)
    if not any(learned):
        against.append("nothing new is better by more than chance" if learned else "too little to judge by is held out")
    return Verdict(not against, (*against, *fine))


def _upper(change: Difference, rule: Rule) -> float:
    """The upper end of the difference's interval; infinite where nothing is known."""
    if change.rows < 2 or not math.isfinite(change.difference) or not math.isfinite(change.stderr):
        return math.inf
    return change.difference + _quantile(rule.confidence, change.rows - 1) * change.stderr


def _told(change: Difference) -> str:
    changed = f"{change.difference:+.4f} +- {change.stderr:.4f}"
    return f"{change.old:.4f} -> {change.new:.4f} nats, {changed} ({change.rows} rows)"


def _quantile(confidence: float, freedom: int) -> float:
    """Quantile of Student's t, to better than 1 % from two degrees of freedom on.

    Source: Abramowitz and Stegun 1964, eq. 26.7.5.
    """
    x = NormalDist().inv_cdf(confidence)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / freedom**power for power, term in enumerate(terms, 1))
