"""Feedback from elsewhere: the same line is the same feedback, and a line that is none is named."""

import json
from pathlib import Path

import pytest

from sfumato.store.feedback import FeedbackStore
from sfumato.store.imported import read_feedback

LINES = [
    {"prompt": "Hi", "response": "Ho", "correction": "Hello", "owner": "ada", "comment": "please"},
    {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hi"}], "response": "Ho", "thumb": -1},
    {"prompt": "Hi", "response": "Ho", "rating": 4},
    {"prompt": "Hi", "chosen": "Hello", "rejected": "Ho"},
    {"prompt": "Once", "response": " upon", "thumb": 1, "kind": "completion"},
]


def write(folder: Path, *records) -> Path:
    path = folder / "given.jsonl"
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def test_lines_become_feedback_once(tmp_path):
    with FeedbackStore(str(tmp_path / "feedback.db")) as store:
        for expected in (True, False):
            added = [store.add(*one) for one in read_feedback(write(tmp_path, *LINES, ""))]
            assert added == [expected] * 5
        found = [(said.kind, response.completion, over and over.completion) for said, response, over in store.read()]
        assert sorted(found, key=str) == sorted(
            [
                ("correction", "Ho", None),
                ("thumb", "Ho", None),
                ("rating", "Ho", None),
                ("preference", "Hello", "Ho"),
                ("thumb", " upon", None),
            ],
            key=str,
        )
        prompts = {json.dumps(response.prompt) for _, response, _ in store.read()}
        assert prompts == {'"Once"', json.dumps(LINES[1]["prompt"]), '[{"role": "user", "content": "Hi"}]'}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("{broken", "Expecting property name"),
        ("[]", "expected a JSON object"),
        ({"response": "Ho", "thumb": 1}, "prompt: missing"),
        (
            {"prompt": "Hi", "response": "Ho"},
            "expected one of correction, thumb, rating, or chosen and .*; got 0",
        ),
        ({"prompt": "Hi", "response": "Ho", "thumb": 1, "rating": 2}, "got 2"),
        ({"prompt": "Hi", "thumb": 1}, "response: expected a text, got None"),
        ({"prompt": "Hi", "chosen": "a"}, "rejected: expected a text"),
        ({"prompt": "Hi", "response": "Ho", "thumb": 3}, "a thumb is 1"),
        ({"prompt": "Hi", "response": "Ho", "stars": 3}, "unknown key 'stars'"),
    ],
    ids=str,
)
def test_a_line_that_is_no_feedback_is_named(tmp_path, record, why):
    with pytest.raises(ValueError, match=rf"given.jsonl:2: .*{why}"):
        list(read_feedback(write(tmp_path, LINES[0], record)))
