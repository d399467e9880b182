"""Rewards pay for what is right, a little for what nearly is, and nothing for nonsense."""

import pytest

from sfumato.cli.task import TASKS as COMMAND
from sfumato.config import ConfigError
from sfumato.config.tuning import ReinforceConfig
from sfumato.data.sources import DataError
from sfumato.evaluate.tasks.addition import Addition
from sfumato.evaluate.tasks.named import TASKS, task_of
from sfumato.evaluate.tasks.sudoku import Sudoku
from sfumato.tune.rewards import addition, countdown, match, reward_of, sudoku

NONSENSE = ["", "\n", "x" * 10_000, "(" * 1000, "1/0", "९९", "\ud83d\ude00", "{", "[" * 100_000]


def reward(*names: str, task: str = "", **settings):
    return reward_of(ReinforceConfig(reward=names, **settings), task_of(task) if task else None)


@pytest.mark.parametrize(("text", "value"), [("030", 1), (" 030\n", 1), ("031", 2 / 3), ("30", 0), ("0a0", 0)])
def test_addition_pays_for_digits(text: str, value: float):
    assert addition({"prompt": "12+18="}, text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("93-(100-30)", 1), (" 93 - 100 + 30 ", 1), ("100+30+93", 0.1), ("23", 0), ("93-100", 0)]
)
def test_countdown_pays_a_little_for_the_right_numbers(text: str, value: float):
    assert countdown({"prompt": "30,100,93=23:"}, text) == value


def test_sudoku_pays_for_cells():
    (problem,) = Sudoku(box="2x2").make(1, 0)
    record = {"prompt": problem.prompt, "response": problem.response, "template": problem.template}
    assert sudoku(record, problem.response) == 1
    blank = "".join(problem.prompt.split()).index("0")
    blanks = problem.prompt.count("0")
    given = next(i for i, cell in enumerate("".join(problem.prompt.split())) if cell != "0")
    for place, value in ((blank, 1 - 1 / blanks), (given, 0)):
        cells = list("".join(problem.response.split()))
        cells[place] = "1" if cells[place] != "1" else "2"
        grid = "\n".join("".join(cells[i : i + 4]) for i in range(0, 16, 4))
        assert sudoku(record, grid) == pytest.approx(value)
    assert sudoku(record, problem.response[:-1]) == 0


def test_formats():
    assert match({"response": "yes"}, " yes\n") == 1 and match({"response": "yes"}, "no") == 0
    assert [reward("json")({}, text) for text in ('{"a": 1}', "[]", "1", "{'a'}")] == [1, 1, 0, 0]
    assert [reward("regex", pattern=r"\d+ euros?")({}, text) for text in (" 3 euros ", "3 euros!")] == [1, 0]
    assert [reward("length", length=2)({}, text) for text in ("", "a", "a b", "a b c d")] == [0, 1, 1, 0.5]


def test_rewards_add_up_with_their_weights():
    both = reward("solved", "addition@0.5", task="addition digits=2")
    assert both({"prompt": "12+18=", "response": "030"}, "030") == 1.5
    assert both({"prompt": "12+18=", "response": "030"}, "031") == pytest.approx(1 / 3)


@pytest.mark.parametrize("text", NONSENSE)
def test_any_text_may_come(text: str):
    (problem,) = Sudoku(box="2x2").make(1, 0)
    grid = {"prompt": problem.prompt, "response": problem.response}
    every = [
        addition({"prompt": "1+2="}, text),
        countdown({"prompt": "1,2=3:"}, text),
        sudoku(grid, text),
        match(grid, text),
        reward("json", "length@0", length=3)(grid, text),
        reward("solved", task="sudoku box=2x2")(grid, text),
    ]
    assert every == [0] * 6


def test_tasks_by_name():
    assert task_of("addition digits=2") == Addition(2)
    assert set(TASKS) == set(COMMAND)
    for text, message in (
        ("adition", "reinforce.task: got 'adition', expected addition"),
        ("", "expected sudoku, countdown"),
        ("addition 3", "expected key=value behind addition, got '3'"),
        ("addition digit=3", "did you mean digits"),
        ("addition digits=0", "expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            task_of(text, "reinforce.task")


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["adition"], {}, "got 'adition', expected addition"),
        (["solved"], {}, "solved needs reinforce.task"),
        (["regex"], {}, "regex needs reinforce.pattern"),
        (["regex"], {"pattern": "("}, "reinforce.pattern: not a regular expression"),
        (["json@a"], {}, "expected NAME@WEIGHT"),
        (["json@nan"], {}, "expected NAME@WEIGHT"),
        (["addition"], {}, "addition needs reinforce.task = addition"),
        (["sudoku"], {"task": "countdown"}, "sudoku needs reinforce.task = sudoku"),
        ([], {}, "expected at least one"),
    ],
)
def test_mistakes_are_one_line(names: list[str], settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        reward(*names, **settings)


def test_a_match_needs_something_to_match():
    with pytest.raises(DataError, match="match needs prompts with their responses"):
        reward("match")({"prompt": "Hi"}, "a")
