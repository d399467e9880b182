"""What several servers at one address agree about, without Ray: who holds which models, the shared state, sums."""

import asyncio
import signal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sfumato.config import ConfigError
from sfumato.serve.facts import summary
from sfumato.serve.metrics import Metrics, merged
from sfumato.serve.replicas import launch
from sfumato.serve.replicas import shared as shared_module
from sfumato.serve.replicas.plan import Group, Scale, groups
from sfumato.serve.replicas.shared import Shared


def test_models_share_replicas_unless_they_have_their_own():
    assert groups(["2"], ["a", "b"]) == (Group("models", ("a", "b"), Scale(2, 2)),)
    assert groups(["b=1:8", "3"], ["a", "b", "c"]) == (
        Group("models", ("a", "c"), Scale(3, 3)),
        Group("model-b", ("b",), Scale(1, 8)),
    )
    assert groups(["a=2"], ["a", "b"]) == (Group("model-a", ("a",), Scale(2, 2)), Group("models", ("b",), Scale(1, 1)))
    assert [group.name for group in groups(["a=2"], ["a"])] == ["model-a"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["0"], "expected a number"),
        (["3:2"], "expected a number"),
        (["two"], "expected a number"),
        (["1:"], "expected a number"),
        (["2", "3"], "two numbers for all models"),
        (["c=2"], "'c' is no model here"),
        (["a=2", "a=3"], "'a' is named twice"),
        (["a=2", "b=1", "4"], "every model has replicas of its own"),
    ],
)
def test_replicas_that_make_no_sense_are_one_line(words: list[str], why: str):
    with pytest.raises(ConfigError, match=why):
        groups(words, ["a", "b"])


def test_everybody_else_is_asked_and_who_is_gone_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(shared_module, "LISTEN", 0.05)

    async def listener(shared: Shared, name: str) -> None:
        while True:
            for number, question, words in await shared.listen(name, "replica"):
                await shared.answer(name, number, f"{name}: {question} {words}" if question == "say" else None)

    async def test() -> None:
        shared = Shared(rate=0)
        tasks = {name: asyncio.create_task(listener(shared, name)) for name in ("a", "b", "c")}
        await asyncio.sleep(0.01)
        assert await shared.ask("replica", "say", ("x",), 5) == {n: f"{n}: say ('x',)" for n in tasks}
        assert set(await shared.ask("replica", "say", (), 5, but="b")) == {"a", "c"}
        assert await shared.ask("replica", "nothing", (), 5) == await shared.ask("gateway", "say", (), 5) == {}
        tasks.pop("a").cancel()
        assert set(await asyncio.wait_for(shared.ask("replica", "say", (), 60), 5)) == {"b", "c"}
        await shared.leave("c")
        assert set(await shared.ask("replica", "say", (), 5)) >= {"b"}
        for task in tasks.values():
            task.cancel()

    asyncio.run(test())


def test_replicas_load_one_after_the_other_and_the_dead_keep_nobody_waiting(monkeypatch):
    monkeypatch.setattr(shared_module, "LISTEN", 0.05)

    async def test() -> None:
        shared = Shared(rate=0)
        for name in ("a", "b"):
            await shared.listen(name, "replica")
        await shared.take_turn("a")
        other = asyncio.create_task(shared.take_turn("b"))
        await asyncio.sleep(0.02)
        assert not other.done()
        await shared.end_turn("a")
        await asyncio.wait_for(other, 5)
        await asyncio.wait_for(shared.take_turn("a"), 5)  # b was not heard of for a while

    asyncio.run(test())


def test_a_signal_ends_a_start_at_once_and_a_server_in_peace(monkeypatch: pytest.MonkeyPatch):
    handlers: dict[int, Any] = {}
    monkeypatch.setattr("signal.signal", lambda number, handler: handlers.update({number: handler}))
    ready, stopping, _ = launch._signals()
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    ready, stopping, _ = launch._signals()
    ready.set()
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert stopping.is_set()
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGINT](signal.SIGINT, None)


def test_requests_are_counted_for_all_together():
    async def test() -> None:
        shared = Shared(rate=2)
        assert [await shared.admit("me") for _ in range(2)] == [None, None]
        message, wait = await shared.admit("me") or ("", 0)
        assert "2 a minute" in message and wait >= 1
        assert await shared.admit("you") is None

    asyncio.run(test())


def test_metrics_of_all_replicas_in_one_text():
    one, other = Metrics(), Metrics()
    one.answered("/v1/completions", 200, 0.2)
    for status in (200, 503):
        other.answered("/v1/completions", status, 0.4)
    text = merged({"one": one.text({"queued": 3}, {}), "other": other.text({}, {})}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {
        (s.labels["replica"], s.labels["status"]): s.value for s in families["responses"].samples if "total" in s.name
    }
    assert found == {("one", "200"): 1, ("other", "200"): 1, ("other", "503"): 1}
    assert {(s.labels["replica"], s.value) for s in families["queue_depth"].samples} == {("one", 3), ("other", 0)}
    assert text.count("# TYPE queue_depth gauge") == 1


def test_numbers_of_all_replicas_are_added_up():
    def part(seconds: list[float], **changes) -> dict:
        models = {"m": {"version": "1", "requests": 2, "tokens": 30, "nfe": 10}}
        return {
            **dict.fromkeys(("queued", "running", "lost"), 1),
            **{
                "started": 5,
                "stats": {"forwards": 4, "batch": {2: 3}},
                "tokens_per_second": 1.5,
                "feedback": {"rating": 1},
            },
            **{"seconds": {"latency": seconds}, "models": models | changes},
        }

    told = summary([part([1.0, 3.0]), part([2.0], n={"version": "2", "requests": 1, "tokens": 0, "nfe": 0})])
    assert (told["queued"], told["requests"], told["tokens"], told["tpf"], told["workers_lost"]) == (2, 5, 60, 3.0, 2)
    assert told["latency_seconds"] == {"count": 3, "p50": 2.0, "p95": 3.0}
    assert told["models"]["m"] == {"version": "1", "requests": 4, "tokens": 60, "nfe": 20}
    assert (told["engine"]["forwards"], told["engine"]["batch"]) == (8, {2: 6}) and told["feedback"] == {"rating": 2}
