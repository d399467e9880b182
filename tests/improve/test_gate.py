"""The gate is a rule about numbers."""

import math

import pytest

from sfumato.evaluate.paired import Difference
from sfumato.improve.gate import Rule, judge


def change(by: float, stderr: float = 0.01, rows: int = 100, old: float = 2.0) -> Difference:
    return Difference(old, old + by, by, stderr, rows)


BETTER, SAME = change(-0.5), change(0.0)


def verdict(text=SAME, answers=BETTER, margin=None, **rule):
    wished = {"held-out answers": answers} if answers else {}
    return judge({"held-out text": text} if text else {}, wished, margin, Rule(**rule))


def test_what_learns_and_forgets_nothing_passes():
    found = verdict()
    assert found.passed and len(found.reasons) == 2
    assert found.reasons[0].startswith("held-out text: 2.0000 -> 2.0000 nats, +0.0000 +- 0.0100 (100 rows); at worst")
    assert "better by +0.4834 at least" in found.reasons[1]  # t(0.95, 99) = 1.6604


@pytest.mark.parametrize(
    ("by", "stderr", "rows", "passed"),
    [
        (0.02, 0.001, 100, True),
        (0.031, 0.001, 100, False),  # worse than is allowed
        (0.02, 0.02, 100, False),  # perhaps not, but nobody knows
        (-1.0, 0.2, 100, True),
        (0.0, 0.015, 100, True),  # 1.66 * 0.015 = 0.0249
        (0.0, 0.015, 4, False),  # 2.35 * 0.015 = 0.0353: few rows say less
        (-1.0, 0.0, 1, False),
        (math.nan, 0.01, 100, False),
        (-math.inf, math.nan, 100, False),
        (0.0, math.nan, 100, False),
    ],
)
def test_held_out_text_may_not_get_worse_by_more_than_the_tolerance(by, stderr, rows, passed):
    found = verdict(change(by, stderr, rows))
    assert found.passed == passed
    assert passed or found.reasons[0].startswith("held-out text: ")


def test_every_text_counts_and_none_is_no_evidence():
    bad = judge({"one": SAME, "two": change(0.5)}, {"held-out answers": BETTER})
    assert not bad.passed and bad.reasons[0].startswith("two: 2.0000 -> 2.5000 nats, +0.5000")
    assert "no held-out text" in verdict(None).reasons[0] and not verdict(None).passed


@pytest.mark.parametrize(
    ("answers", "passed", "why"),
    [
        (change(-0.1, 0.01), True, ""),
        (change(-0.1, 0.1), False, "nothing new is better by more than chance"),
        (change(0.0, 0.01), False, "nothing new is better by more than chance"),
        (change(0.1, 0.01), False, "worse than before"),
        (change(-0.5, 0.01, 4), False, "too little to judge by"),
        (change(math.nan, 0.01), False, "worse than before"),
        (None, False, "too little to judge by"),
    ],
)
def test_feedback_must_have_been_learned(answers, passed, why):
    found = verdict(answers=answers)
    assert found.passed == passed and any(why in reason for reason in found.reasons)


def test_pairs_are_better_when_the_margin_grows():
    assert verdict(answers=None, margin=change(+2.0, 0.5)).passed
    assert not verdict(answers=None, margin=change(-2.0, 0.5)).passed
    against = verdict(margin=change(-2.0, 0.5))  # answers are better, pairs are worse
    assert not against.passed and against.reasons[0].startswith("held-out pairs") and "worse" in against.reasons[0]
    assert verdict(margin=change(-0.1, 0.5)).passed  # nobody knows about the pairs, and answers are better


def test_earlier_feedback_may_not_be_undone():
    texts = {"held-out text": SAME}
    assert judge(texts, {"held-out answers": BETTER, "earlier held-out answers": SAME}).passed
    found = judge(texts, {"held-out answers": BETTER, "earlier held-out answers": change(0.2)})
    assert not found.passed and found.reasons[0].startswith("earlier held-out answers")


def test_the_rule_decides():
    assert verdict(change(0.08, 0.001)).passed is False and verdict(change(0.08, 0.001), tolerance=0.1).passed
    weak = change(-0.1, 0.07)
    assert verdict(answers=weak, confidence=0.9).passed and not verdict(answers=weak, confidence=0.95).passed
    few = change(-0.5, 0.01, 4)
    assert verdict(answers=few, least=4).passed and not verdict(answers=few).passed
