"""Pairs of answers out of records."""

import json
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import Source
from sfumato.data.preferences import Preference, preferences
from sfumato.data.sources import DataError, Report

PAIR = {"prompt": "Hello", "chosen": "Hi!", "rejected": "What?"}
TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]


def written(folder: Path, *records: Any) -> str:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def test_prompts_and_conversations(tmp_path: Path):
    path = written(tmp_path, PAIR, {**PAIR, "messages": TURNS, "weight": 0.5})
    first, second = preferences(Source(path, weight=2), Report())
    assert first == Preference("Hello", "Hi!", "What?", 2.0)
    assert second == Preference((("system", "Be kind."), ("user", "Hello")), "Hi!", "What?", 1.0)


def test_templates_make_prompts_out_of_other_records(tmp_path: Path):
    record = {"instruction": "Greet", "input": "Bob", "output": "Hi!", "chosen": "Hi Bob!", "rejected": "You."}
    (pair,) = preferences(
        Source(written(tmp_path, record), prompt="{instruction} {input}.", response="{chosen}"), Report()
    )
    assert pair == Preference("Greet Bob.", "Hi Bob!", "You.")


def test_equal_answers_are_left_out(tmp_path: Path):
    assert not list(preferences(Source(written(tmp_path, {**PAIR, "rejected": "Hi!"})), Report()))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"prompt": "a", "chosen": "b"}, "no field 'rejected'; it has prompt, chosen"),
        ({"chosen": "b", "rejected": "c"}, "no field 'prompt'; it has chosen, rejected"),
        ({**PAIR, "prompt": 3}, "expected a string or a list of messages, got int"),
        ({**PAIR, "chosen": ["b"]}, r"chosen: expected a text, got \['b'\]"),
        ({**PAIR, "rejected": " "}, "rejected: expected a text, got ' '"),
        ({**PAIR, "chosen": "a\0"}, "chosen: text holds a NUL character"),
        ({**PAIR, "weight": 0}, "weight: expected a number above 0, got 0"),
        ({**PAIR, "weight": "1"}, "weight: expected a number above 0, got '1'"),
        ({**PAIR, "messages": [{"role": "robot", "content": "x"}]}, "message 0 has role 'robot'"),
        ({**PAIR, "messages": [*TURNS, {"role": "assistant", "content": "x"}]}, "messages must end with the turn"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_a_broken_record_stops_at_its_place_or_is_counted(tmp_path: Path, record: Any, why: str):
    source = Source(written(tmp_path, PAIR, record))
    with pytest.raises(DataError, match=f"pairs.jsonl:2: {why}"):
        list(preferences(source, Report()))
    report = Report("skip")
    assert len(list(preferences(source, report))) == 1 and report.skipped == 1


def test_a_text_file_holds_no_pairs(tmp_path: Path):
    (tmp_path / "text.txt").write_text("Hello")
    with pytest.raises(DataError, match="expected JSON lines or a table, got a text"):
        list(preferences(Source(str(tmp_path / "text.txt")), Report()))
