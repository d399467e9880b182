"""What makes no sense is refused with a line that begins with the field's name."""

from collections.abc import Callable
from datetime import datetime

import pytest

from sfumato.store.records import Feedback, Response

GOOD = {
    "id": "a",
    "kind": "chat",
    "model": "tiny",
    "model_version": "0f",
    "seed": 7,
    "prompt": "",
    "completion": "",
}
NESTED: list = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("id", ""), ("id", "x" * 201), ("id", 7), ("id", "a\0b"), ("id", "\ud800")],
        *[("created", datetime(2031, 1, 1)), ("created", "today"), ("kind", "letter"), ("kind", None)],
        *[("model", None), ("model_version", "\0"), ("seed", -1), ("seed", 2**63), ("seed", True), ("seed", 0.5)],
        *[("completion", None), ("tokens", [1]), ("tokens", (1, "2")), ("tokens", (True,))],
        *[("settings", []), ("settings", {"top_p": float("nan")}), ("usage", None), ("usage", {"a": {1}})],
        *[("prompt", b"bytes"), ("prompt", float("inf")), ("prompt", NESTED)],
    ],
)
def test_a_response_that_makes_no_sense(field: str, value: object, refused: Callable):
    assert refused(ValueError, Response, **{**GOOD, field: value}).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("guilty", "fields"),
    [
        *[("value", {"kind": "thumb", "value": value}) for value in (None, 0, 2, True, 1.0, "up")],
        *[("value", {"kind": "rating", "value": value}) for value in (None, 0, 6, True, 4.5)],
        ("value", {"kind": "correction", "correction": "b", "value": 1}),
        ("correction", {"kind": "correction"}),
        ("correction", {"kind": "correction", "correction": "\ud800"}),
        ("correction", {"kind": "thumb", "value": 1, "correction": "b"}),
        ("over", {"kind": "preference"}),
        ("over", {"kind": "preference", "over": "a"}),
        ("over", {"kind": "rating", "value": 1, "over": "b"}),
        ("kind", {"kind": "praise"}),
        ("comment", {"kind": "thumb", "value": 1, "comment": None}),
        ("comment", {"kind": "thumb", "value": 1, "comment": "\0"}),
        ("owner", {"kind": "thumb", "value": 1, "owner": 7}),
        ("response_id", {"kind": "thumb", "value": 1, "response_id": ""}),
    ],
)
def test_feedback_that_makes_no_sense(guilty: str, fields: dict, refused: Callable):
    assert refused(ValueError, Feedback, **{"response_id": "a", **fields}).startswith(f"{guilty}: ")


def test_ids_and_times_make_themselves():
    first, second = (Feedback(response_id="a", kind="thumb", value=1) for _ in range(2))
    assert first.id != second.id and first.created <= second.created and first.created.tzinfo is not None
    assert Feedback(response_id="a", kind="preference", over="b").about == ("a", "b")
