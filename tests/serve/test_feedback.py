"""Feedback is on disk before it is acknowledged, and it is about what was really written."""

from pathlib import Path

import pytest

from sfumato.serve import memory
from sfumato.serve.memory import Memory
from sfumato.store.feedback import FeedbackStore
from sfumato.store.records import Response

PATH = "/v1/feedback"


@pytest.fixture
def kept(make, tmp_path: Path):
    store = FeedbackStore(f"sqlite:///{tmp_path}/feedback.db")
    yield make(store=store), store
    store.close()


def written(here, **others) -> dict:
    return here.post("/v1/completions", prompt="Tom", max_tokens=8, seed=7, **others).json()


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"kind": "thumb", "value": 1}, "thumb_up"),
        ({"kind": "thumb", "value": -1, "comment": "dull"}, "thumb_down"),
        ({"kind": "rating", "value": 4}, "rating"),
        ({"kind": "correction", "correction": " had a ball."}, "correction"),
    ],
)
def test_feedback_is_stored_with_what_it_is_about(kept, said: dict, name: str):
    here, store = kept
    answer = written(here)
    response = here.post(PATH, response_id=answer["id"], **said)
    assert response.status_code == 201 and response.json()["stored"] is True
    ((feedback, about, _),) = store.read()
    assert feedback.id == response.json()["id"] and feedback.kind == said["kind"]
    assert (about.id, about.kind, about.prompt, about.seed) == (answer["id"], "completion", "Tom", 7)
    assert about.completion == answer["choices"][0]["text"] and about.model_version == answer["system_fingerprint"]
    assert len(about.tokens) == 8 and about.settings["steps"] >= 1 and about.usage["completion_tokens"] == 8
    assert store.counts()[name] == 1 and here.ask("GET", "/v1/stats").json()["feedback"] == {name: 1}


def test_a_preference_is_about_two_texts(kept):
    here, store = kept
    answer = written(here, n=2)
    response = here.post(PATH, response_id=answer["id"], index=1, kind="preference", over=answer["id"], over_index=0)
    assert response.status_code == 201, response.text
    ((_, liked, other),) = store.read()
    assert [liked.completion, other.completion] == [choice["text"] for choice in reversed(answer["choices"])]
    assert (liked.seed, other.seed) == (8, 7)


def test_every_kind_of_response_can_be_judged(kept):
    here, store = kept
    ids = [
        here.post("/v1/fim/completions", prompt="Tom", suffix=" end.", max_tokens=3).json()["id"],
        here.post("/v1/denoise", template="Tom{3}.").json()["id"],
        here.post("/v1/edit/completions", text="Tom sat.", edits=[{"start": 4, "end": 7}]).json()["id"],
        here.chunks("/v1/completions", prompt="Tom", max_tokens=4)[0]["id"],
    ]
    for response_id in ids:
        assert here.post(PATH, response_id=response_id, kind="thumb", value=1).status_code == 201
    assert [about.kind for _, about, _ in store.read()] == ["fim", "denoise", "edit", "completion"]


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"kind": "thumb", "value": 2}, "value"),
        ({"kind": "rating", "value": 6}, "value"),
        ({"kind": "correction"}, "correction"),
        ({"kind": "applause"}, "kind"),
        ({"kind": "thumb", "value": 1, "comment": "\0"}, "comment"),
        ({"kind": "rating", "value": 3, "correction": "x"}, "correction"),
    ],
    ids=str,
)
def test_feedback_without_sense_is_refused(kept, said: dict, param: str):
    here, store = kept
    response = here.post(PATH, response_id=written(here)["id"], **said)
    assert response.status_code == 400 and response.json()["error"]["param"] == param
    assert not list(store.read())


def test_what_is_not_remembered_cannot_be_judged(kept):
    here, _ = kept
    assert here.post(PATH, response_id="cmpl-1", kind="thumb", value=1).status_code == 404
    answer = written(here)
    assert here.post(PATH, response_id=answer["id"], index=1, kind="thumb", value=1).status_code == 404


def test_a_server_without_a_store_says_so(here):
    response = here.post(PATH, response_id=written(here)["id"], kind="thumb", value=1)
    assert response.status_code == 404 and response.json()["error"]["code"] == "no_feedback"


def test_what_cannot_be_stored_is_not_acknowledged(kept, disk_full):
    here, _ = kept
    answer = written(here)
    with disk_full(4096):
        response = here.post(PATH, response_id=answer["id"], kind="thumb", value=1)
    assert response.status_code == 503 and response.json()["error"]["code"] == "not_stored"


def response(text: str) -> Response:
    return Response(id="a", kind="chat", model="m", model_version="1", seed=0, prompt="p", completion=text)


def test_memory_is_bounded_and_private(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MOST_RESPONSES", 3)
    kept = Memory()
    for i in range(5):
        kept.add(str(i), "me", (response("x"),))
    assert list(kept.responses) == ["2", "3", "4"]
    assert kept.get("4", "me") and not kept.get("4", "you") and not kept.get("0", "me")
    kept.add("large", "me", (response("x" * memory.MOST_CHARACTERS),))
    assert not kept.responses and kept.characters == 0
