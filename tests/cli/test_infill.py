import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main


@pytest.fixture
def call(masked_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`sfumato infill` with the small model; standard output is no terminal."""

    def called(*words: str) -> tuple[int, str, str]:
        code = main(["infill", "--model", str(masked_bundle), "--device", "cpu", "--dtype", "float32", *words])
        return (code, *capsys.readouterr())

    return called


def test_what_is_given_stays_and_the_holes_are_filled(call: Callable[..., tuple[int, str, str]]):
    code, out, err = call("Once {3} there was {*}", "--max-tokens", "5", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "") and record["text"].startswith("Once ") and " there was " in record["text"]
    assert record["stats"]["committed"] <= 8 and record["settings"]["max_tokens"] == 5


def test_a_closed_template_ends_as_it_says(call: Callable[..., tuple[int, str, str]]):
    code, out, _ = call("Once {3} the end.")
    assert code == 0 and out.startswith("Once ") and out.endswith(" the end.\n") and "\x1b" not in out


def test_doubled_braces_are_text(call: Callable[..., tuple[int, str, str]]):
    assert call("{{{2}}} ends")[1].startswith("{")
    assert call("a {2} {{b}}")[1].endswith(" {b}\n")


def test_the_same_seed_repeats_and_the_next_one_differs(call: Callable[..., tuple[int, str, str]]):
    template = "Once {9} there {9} end"
    texts = [json.loads(line)["text"] for line in call(template, "--n", "2", "--seed", "3", "--json")[1].splitlines()]
    assert texts[0] != texts[1] and call(template, "--seed", "4")[1] == texts[1] + "\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Once {8 there", "template, column 6"),
        ("Once } there {*}", "template, column 6"),
        ("Once {zero}", "template, column 6"),
        ("Once {0}", "template, column 6"),
        ("Once {*} there", "template, column 6"),
        ("Once upon a time", "template has no hole"),
        ("Once {60} there was {*}", "the context holds 96"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(
    template: str, message: str, call: Callable[..., tuple[int, str, str]]
):
    code, out, err = call(template)
    assert (code, out) == (2, "") and err.startswith("sfumato: template") and message in err and err.count("\n") == 1
