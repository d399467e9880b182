"""Feedback comes back as it was given, on every database."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sfumato.store.feedback import FeedbackStore
from sfumato.store.records import Feedback, Response

MORNING = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def response(name: str, **fields) -> Response:
    usual = {"kind": "chat", "model": "tiny", "model_version": "0f" * 6, "seed": 7, "prompt": "Hi", "completion": "Ho"}
    return Response(id=name, created=MORNING, **{**usual, **fields})


def thumb(about: str, value: int = 1, **fields) -> Feedback:
    return Feedback(response_id=about, kind="thumb", value=value, **fields)


RICH = response(
    "chat-1",
    kind="denoise",
    seed=2**63 - 1,
    settings={"steps": 8, "temperature": 0.1, "sampler": None, "stop": ["\n", "é"]},
    prompt=[{"role": "user", "content": "What is \0 and \ud83d and 🙂?"}],
    completion="Nothing: \0, \ufffd, 猫",
    tokens=(0, 5, 2**31),
    usage={"prompt_tokens": 3, "diffusion": {"nfe": 7, "tpf": 1.25}},
)


@pytest.mark.parametrize(
    "feedback",
    [
        thumb("chat-1", -1, comment="no; DROP TABLE sfumato_feedback -- 'é' 🙂", owner="Ada"),
        Feedback(response_id="chat-1", kind="rating", value=5, created=MORNING),
        Feedback(response_id="chat-1", kind="correction", correction=""),
    ],
    ids=lambda feedback: feedback.kind,
)
def test_what_is_read_is_what_was_added(store: FeedbackStore, feedback: Feedback):
    assert store.add(feedback, [RICH])
    assert list(store.read()) == [(feedback, RICH, None)]


def test_a_preference_is_about_two_responses(store: FeedbackStore):
    better, worse = response("b"), response("a", completion="Hm")
    feedback = Feedback(response_id="b", kind="preference", over="a")
    store.add(feedback, [better, worse])
    assert list(store.read()) == [(feedback, better, worse)]


def test_it_is_there_when_the_database_is_opened_again(url: str):
    with FeedbackStore(url) as store:
        store.add(thumb("chat-1"), [RICH])
    with FeedbackStore(url, create=False) as store:
        assert [found for _, found, _ in store.read()] == [RICH]


def test_the_same_id_again_changes_nothing(store: FeedbackStore):
    first = thumb("a", id="one")
    assert store.add(first, [response("a")])
    assert not store.add(thumb("a", -1, id="one"), [response("a", completion="other")])
    assert list(store.read()) == [(first, response("a"), None)]


def test_a_stored_response_need_not_be_given_again(store: FeedbackStore):
    store.add(thumb("a"), [response("a")])
    store.add(thumb("a", -1))
    assert [found.id for _, found, _ in store.read()] == ["a", "a"]


def test_feedback_about_a_response_that_nobody_knows_is_refused_whole(store: FeedbackStore, refused: Callable):
    feedback = Feedback(response_id="a", kind="preference", over="b")
    assert "b is not stored" in refused(ValueError, store.add, feedback, [response("a")])
    assert "c is not one" in refused(ValueError, store.add, feedback, [response("c")])
    assert list(store.read()) == []
    assert store.add(feedback, [response("a"), response("b")])


def test_times_come_back_in_utc_and_in_their_order(store: FeedbackStore):
    east = timezone(timedelta(hours=9))
    times = [MORNING, (MORNING + timedelta(seconds=1)).astimezone(east), MORNING + timedelta(seconds=2)]
    for time in reversed(times):
        store.add(thumb("a", created=time), [response("a")])
    assert [feedback.created for feedback, _, _ in store.read()] == times
    assert all(feedback.created.tzinfo is UTC for feedback, _, _ in store.read())
    assert [feedback.created for feedback, _, _ in store.read(since=times[1])] == times[1:]


def test_only_the_kinds_that_are_wanted(store: FeedbackStore, refused: Callable):
    store.add(thumb("a"), [response("a")])
    store.add(Feedback(response_id="a", kind="rating", value=2))
    assert [feedback.kind for feedback, _, _ in store.read(kinds={"rating", "correction"})] == ["rating"]
    assert list(store.read(kinds=[])) == []
    assert "'thumbs'" in refused(ValueError, store.read, kinds=["thumbs"])
    assert "time zone" in refused(ValueError, store.read, since=datetime(2031, 1, 1))


def test_reading_goes_on_where_the_last_page_ended(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sfumato.store.feedback.PAGE", 10)
    count = 21
    for n in range(count):  # many at the same moment: the id decides
        store.add(thumb("a", id=f"{n:04}", created=MORNING + timedelta(seconds=n // 13)), [response("a")])
    reading = store.read()
    assert next(reading)[0].id == "0000"
    store.add(thumb("a", id="late", created=MORNING + timedelta(hours=1)))  # a reader is in no writer's way
    assert [feedback.id for feedback, _, _ in reading] == [*(f"{n:04}" for n in range(1, count)), "late"]


def test_counts(store: FeedbackStore):
    assert set(store.counts().values()) == {0}
    store.add(thumb("a", 1), [response("a"), response("b")][:1])
    for value in (1, -1):
        store.add(thumb("a", value))
    store.add(Feedback(response_id="a", kind="preference", over="b"), [response("b")])
    assert store.counts() == {"thumb_up": 2, "thumb_down": 1, "rating": 0, "correction": 0, "preference": 1}


def test_many_threads_and_stores_write_the_same_responses(url: str):
    with FeedbackStore(url) as one, FeedbackStore(url) as other, ThreadPoolExecutor(8) as pool:

        def write(n: int) -> bool:
            names = ("a", "b") if n % 2 else ("b", "a")
            feedback = Feedback(id=str(n % 50), response_id=names[0], kind="preference", over=names[1])
            return (one, other)[n % 3 == 0].add(feedback, [response(name) for name in names])

        written = list(pool.map(write, range(100)))
        assert sum(written) == one.counts()["preference"] == 50


def test_several_may_open_an_empty_database_at_once(url: str):
    def look(_: int) -> int:
        with FeedbackStore(url) as store:
            return sum(store.counts().values())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(look, range(6))) == [0] * 6
