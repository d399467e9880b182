"""Rewards that can be verified: functions of what was asked and of what was answered. Nothing that is written is run.

Graded ones pay for answers that are nearly right: where none of a group is right, there is still something to learn. A
new reward is a function here and an entry in `reward_of`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sfumato.config import ConfigError, closest
from sfumato.config.tuning import ReinforceConfig
from sfumato.data.sources import DataError
from sfumato.evaluate.tasks.addition import Addition
from sfumato.evaluate.tasks.countdown import Countdown, evaluated
from sfumato.evaluate.tasks.problem import Problem, Task
from sfumato.evaluate.tasks.sudoku import Sudoku

Record = Mapping[str, Any]
"""What was asked: `prompt` or `messages`, the known `response` where there is one, `template` of in-place problems."""


class Reward(Protocol):
    """Pure: the same for the same record and text. Any text may come."""

    def __call__(self, record: Record, text: str) -> float:
        """How good the answer is; most are from 0 to 1."""
        ...


def addition(record: Record, text: str) -> float:
    """The share of the sum's digits that are right; 0 for anything but so many digits."""
    left, right = record["prompt"].removesuffix("=").split("+")
    total = f"{int(left) + int(right):0{max(len(left), len(right)) + 1}}"
    answer = text.strip()
    if len(answer) != len(total) or not (answer.isascii() and answer.isdecimal()):
        return 0.0
    return sum(a == b for a, b in zip(answer, total, strict=True)) / len(total)


def countdown(record: Record, text: str) -> float:
    """1 for the target, 0.1 for another expression of exactly the given numbers, else 0.

    Source: Zhao et al. 2025 (d1, 2504.12216, appendix).
    """
    given, _, target = record["prompt"].removesuffix(":").partition("=")
    try:
        value, used = evaluated(text)
    except ValueError:
        return 0.0
    if used != Counter(map(int, given.split(","))):
        return 0.0
    return 1.0 if value == int(target) else 0.1


def sudoku(record: Record, text: str) -> float:
    """The share of the blanks that hold the right value; 0 where the grid has another shape or a given was changed."""
    puzzle, solved = ("".join(record[name].split()) for name in ("prompt", "response"))
    rows = text.split()
    cells = "".join(rows)
    if [len(row) for row in rows] != [len(row) for row in record["response"].split()]:
        return 0.0
    if any(given not in ("0", cell) for given, cell in zip(puzzle, cells, strict=True)):
        return 0.0
    blanks = [i for i, given in enumerate(puzzle) if given == "0"]
    return sum(cells[i] == solved[i] for i in blanks) / len(blanks)


def match(record: Record, text: str) -> float:
    """1 for the known response, but for space around it. DataError: there is none."""
    if not record.get("response"):
        raise DataError("reinforce.reward: match needs prompts with their responses; the data holds one without")
    return float(text.strip() == record["response"].strip())


def is_json(record: Record, text: str) -> float:
    """1 for a JSON object or list."""
    try:
        return float(isinstance(json.loads(text), (dict, list)))
    except (ValueError, RecursionError):
        return 0.0


def solves(task: Task) -> Reward:
    """1 for what the task accepts."""

    def solved(record: Record, text: str) -> float:
        return float(task.check(Problem(record["prompt"], record["response"], record.get("template")), text))

    return solved


def matches(pattern: str) -> Reward:
    """1 where all of the answer, but for space around it, matches the regular expression."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"reinforce.pattern: not a regular expression: {error}") from None
    return lambda record, text: float(compiled.fullmatch(text.strip()) is not None)


def at_most(words: int) -> Reward:
    """1 up to so many words, then less and less; 0 for no word at all."""

    def short(record: Record, text: str) -> float:
        found = len(text.split())
        return min(1.0, words / found) if found else 0.0

    return short


def reward_of(config: ReinforceConfig, task: Task | None) -> Reward:
    """The weighted sum of the rewards that a recipe names.

    Args:
        config: `reward` has entries NAME or NAME@WEIGHT.
        task: where the problems come from; None = from data.

    Raises:
        ConfigError: an unknown name or a bad weight, or a reward that lacks what it needs.
    """
    known: dict[str, Reward | str] = {
        "addition": addition if isinstance(task, Addition) else "needs reinforce.task = addition",
        "countdown": countdown if isinstance(task, Countdown) else "needs reinforce.task = countdown",
        "sudoku": sudoku if isinstance(task, Sudoku) else "needs reinforce.task = sudoku",
        "match": match,
        "json": is_json,
        "solved": solves(task) if task else "needs reinforce.task",
        "regex": matches(config.pattern) if config.pattern else "needs reinforce.pattern",
        "length": at_most(config.length) if config.length else "needs reinforce.length",
    }
    chosen: list[tuple[Reward, float]] = []
    for text in config.reward:
        name, at, weight = text.partition("@")
        found = known.get(name)
        if found is None:
            hint = closest(name, known)
            raise ConfigError(f"reinforce.reward: got {name!r}, expected {f'{hint}?' if hint else ', '.join(known)}")
        if isinstance(found, str):
            raise ConfigError(f"reinforce.reward: {name} {found}")
        chosen.append((found, _weight(text, weight) if at else 1.0))
    if not chosen:
        raise ConfigError(f"reinforce.reward: expected at least one of {', '.join(known)}")
    return _sum(chosen)


def _sum(chosen: Sequence[tuple[Reward, float]]) -> Reward:
    return lambda record, text: sum(weight * reward(record, text) for reward, weight in chosen)


def _weight(text: str, weight: str) -> float:
    try:
        found = float(weight)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"reinforce.reward: expected NAME@WEIGHT such as json@0.2, got {text!r}")
    return found
