"""Settings that adapt: only for those who choose none, explained, learned from feedback, and kept over a restart."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import KEY, Server

from sfumato.config import ConfigError
from sfumato.sample.controller import Utility
from sfumato.sample.front import Front
from sfumato.sample.presets import read_presets
from sfumato.serve.adapting import Adapting, goodness
from sfumato.serve.auth import Keys
from sfumato.serve.service import Options
from sfumato.store.feedback import FeedbackStore
from sfumato.store.records import Feedback, Response

PRESETS = {"balanced", "careful", "fast"}


@pytest.fixture
def adapting(tmp_path: Path) -> Adapting:
    return Adapting(tmp_path / "controller.json", seed=1)


@pytest.fixture
def kept(make: Callable, tmp_path: Path, adapting: Adapting) -> Iterator[Any]:
    """An application that adapts."""
    store = FeedbackStore(f"sqlite:///{tmp_path}/feedback.db")
    yield make(store=store, adapting=adapting)
    store.close()


def write(here: Any, **others: Any) -> dict[str, Any]:
    answer = here.post("/v1/completions", **{"prompt": "Tom", "max_tokens": 8} | others)
    assert answer.status_code == 200, answer.text
    return answer.json()


def judge(here: Any, answer: dict[str, Any], value: int = 1, **others: Any) -> None:
    said = {"response_id": answer["id"], "kind": "thumb", "value": value} | others
    assert here.post("/v1/feedback", **said).status_code == 201


def believed(here: Any, model: str = "tiny") -> dict[str, Any]:
    return here.ask("GET", "/v1/controller").json()["models"][model]["kinds"]


def test_a_request_that_chooses_nothing_gets_a_preset_and_is_told_why(kept: Any) -> None:
    answer = write(kept)
    told = answer["diffusion"]["controller"]
    assert told["kind"] == "completion" and told["preset"] in PRESETS and told["why"]
    assert set(told["estimates"]) == PRESETS
    thresholds = {"careful": 0.98, "balanced": 0.9, "fast": 0.6}
    for _ in range(12):
        answer = write(kept)["diffusion"]
        assert answer["settings"]["threshold"] == thresholds[answer["controller"]["preset"]]


@pytest.mark.parametrize(
    "own",
    [
        *({"temperature": 0.5}, {"top_p": 0.9}, {"steps": 4}, {"threshold": 0.5}, {"sampler": "margin"}, {"seed": 3}),
        *({"block_length": 8}, {"reasoning_effort": "low"}, {"clamp": False}),
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_request_that_chooses_for_itself_is_never_touched(kept: Any, make: Callable, own: dict[str, Any]) -> None:
    answer, plain = write(kept, **own)["diffusion"], write(make(), **own)["diffusion"]
    assert "controller" not in answer and answer["settings"] == plain["settings"]
    assert kept.ask("GET", "/v1/controller").json()["models"] == {}


def test_every_way_to_ask_has_its_kind(kept: Any) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}], "model": "talk", "max_tokens": 4}
    asked = [
        ("/v1/completions", {"prompt": "Tom", "max_tokens": 4}, "completion"),
        ("/v1/completions", {"prompt": "Tom", "suffix": "ball", "max_tokens": 4}, "infill"),
        ("/v1/fim/completions", {"prompt": "Tom", "suffix": "ball", "max_tokens": 4}, "infill"),
        ("/v1/denoise", {"template": "Tom {4}."}, "infill"),
        ("/v1/edit/completions", {"text": "Tom ran.", "edits": [{"start": 3, "end": 7}]}, "infill"),
        ("/v1/completions", {"prompt": "Tom", "regex": "[a-z ]+", "max_tokens": 4}, "structured"),
        ("/v1/chat/completions", chat, "chat"),
        ("/v1/chat/completions", chat | {"choice": ["yes", "no"]}, "structured"),
    ]
    for path, body, kind in asked:
        answer = kept.post(path, **body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["diffusion"]["controller"]["kind"] == kind, path
    assert set(believed(kept)) == {"completion", "infill", "structured"}
    assert set(believed(kept, "talk")) == {"chat", "structured"}


def test_a_stream_tells_it_too(kept: Any) -> None:
    last = kept.chunks("/v1/completions", prompt="Tom", max_tokens=8, diffusing=True)[-1]
    assert last["diffusion"]["controller"]["preset"] in PRESETS


def test_users_teach_it(kept: Any) -> None:
    """Who likes one preset alone gets that one."""
    for _ in range(60):
        answer = write(kept, max_tokens=2)
        judge(kept, answer, 1 if answer["diffusion"]["controller"]["preset"] == "fast" else -1)
    last = [write(kept, max_tokens=2)["diffusion"]["controller"]["preset"] for _ in range(12)]
    assert last.count("fast") >= 9
    found = believed(kept)["completion"]
    assert found["fast"]["quality"] > 0.8 > 0.5 > found["careful"]["quality"]
    assert sum(one["used"] for one in found.values()) == 72


def test_a_text_teaches_once_and_each_of_several_texts_by_itself(kept: Any) -> None:
    answer = write(kept, n=2)
    judge(kept, answer, index=0)
    judge(kept, answer, -1, index=0)
    judge(kept, answer, index=1)
    told = believed(kept)["completion"][answer["diffusion"]["controller"]["preset"]]
    assert told["judged"] == pytest.approx(1.99) and told["quality"] == pytest.approx((1.99 + 1) / (1.99 + 2), abs=1e-3)


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ({"kind": "thumb", "value": 1}, 1.0),
        ({"kind": "thumb", "value": -1}, 0.0),
        ({"kind": "rating", "value": 1}, 0.0),
        ({"kind": "rating", "value": 4}, 0.75),
        ({"kind": "correction", "correction": "abcd"}, 1.0),
        ({"kind": "correction", "correction": "abxy"}, 0.5),
        ({"kind": "correction", "correction": ""}, 0.0),
        ({"kind": "preference", "over": "other"}, 1.0),
    ],
)
def test_what_feedback_says(said: dict[str, Any], good: float) -> None:
    text = Response(id="r", kind="chat", model="m", model_version="1", seed=0, prompt="p", completion="abcd")
    assert goodness(Feedback(response_id="r", **said), text) == good
    if said["kind"] == "preference":
        other = Response(id="other", kind="chat", model="m", model_version="1", seed=0, prompt="p", completion="x")
        assert goodness(Feedback(response_id="r", **said), other) == 0


def test_what_it_learned_is_on_the_metrics_and_in_the_stats(kept: Any) -> None:
    answer = write(kept)
    preset = answer["diffusion"]["controller"]["preset"]
    text = kept.ask("GET", "/metrics").text
    assert f'controller_decisions_total{{kind="completion",model="tiny",preset="{preset}"}} 1.0' in text
    assert f'controller_utility{{kind="completion",model="tiny",preset="{preset}"}} 0.' in text
    assert (
        kept.ask("GET", "/v1/stats").json()["controller"]["models"]["tiny"]["kinds"]["completion"][preset]["used"] == 1
    )


def test_without_it_nothing_changes(make: Callable) -> None:
    here = make()
    assert "controller" not in write(here)["diffusion"]
    assert here.ask("GET", "/v1/controller").json() == {"enabled": False, "utility": {}, "models": {}}
    assert here.ask("GET", "/v1/stats").json()["controller"] is None


def test_an_operator_makes_it_forget(make: Callable, kept: Any, adapting: Adapting, tmp_path: Path) -> None:
    assert kept.post("/admin/controller/reset", model="tiny").status_code == 403
    (tmp_path / "keys").write_text("sk-operator\n")
    keys, headers = Keys.read(tmp_path / "keys"), {"authorization": "Bearer sk-operator"}
    plain = make(Options(keys=keys))
    assert plain.ask("POST", "/admin/controller/reset", {"model": "tiny"}, headers=headers).status_code == 404
    here = make(Options(keys=keys), adapting=adapting)
    write(kept)
    answer = here.ask("POST", "/admin/controller/reset", {"model": "tiny"})
    assert answer.status_code == 401
    answer = here.ask("POST", "/admin/controller/reset", {"model": "tiny"}, headers=headers)
    assert answer.json() == {"model": "tiny", "reset": True}
    assert believed(kept) == {}


def front(name: str = "tiny") -> Front:
    return Front.load(name)


def test_it_goes_on_after_a_restart(adapting: Adapting) -> None:
    tiny = front()
    for number in range(30):
        choice = adapting.choose("tiny", tiny, "1", "chat", structured=False)
        adapting.begin(str(number), "tiny", choice)
        adapting.wrote(str(number), 1.0, 20)
        adapting.judged(Feedback(response_id=str(number), kind="thumb", value=1), [response(str(number))])
    adapting.save()
    again = Adapting(adapting.path, seed=1)
    ask = lambda one: [one.choose("tiny", tiny, "1", "chat", structured=False).told for _ in range(5)]  # noqa: E731
    assert ask(again) == ask(adapting)
    assert "prompt" not in adapting.path.read_text()


def test_presets_that_changed_are_learned_about_anew(adapting: Adapting, tmp_path: Path) -> None:
    tiny = front()
    choice = adapting.choose("tiny", tiny, "1", "chat", structured=False)
    adapting.begin("1", "tiny", choice)
    adapting.judged(Feedback(response_id="1", kind="thumb", value=1), [response("1")])
    adapting.choose("tiny", tiny, "2", "chat", structured=False)  # read anew, with the same presets: it goes on
    assert adapting.told()["models"]["tiny"]["kinds"]["chat"][choice.preset.name]["judged"] == 1
    adapting.save()
    (tmp_path / "presets.toml").write_text("[masked.fast]\nthreshold = 0.7\n")
    other = Adapting(adapting.path, tables=read_presets(tmp_path / "presets.toml"))
    other.choose("tiny", tiny, "1", "chat", structured=False)
    assert all(one["judged"] == 0 for one in other.told()["models"]["tiny"]["kinds"]["chat"].values())


def test_a_model_that_cannot_write_with_the_presets_gets_those_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "presets.toml").write_text('[tiny.fast]\nsampler = "threshold"\n')
    tables = read_presets(tmp_path / "presets.toml")
    adapting = Adapting(tmp_path / "controller.json", tables=tables)
    with pytest.raises(ConfigError, match="preset fast of tiny: sampler: 'threshold' does not make sense"):
        adapting.check("tiny", front("tiny-ar"))
    adapting.check("tiny", front())
    choice = adapting.choose("tiny", front("tiny-ar"), "2", "chat", structured=False)  # after it was replaced
    assert choice.preset.name in {"balanced", "careful"}


def response(name: str) -> Response:
    return Response(id=name, kind="chat", model="tiny", model_version="1", seed=0, prompt="p", completion="abcd")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "x"}', '{"format": "sfumato-controller-1", "models": {"a": 1}}']
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "controller.json").write_text(content)
    with pytest.raises(ConfigError, match="not the state of a controller .*; delete it to learn anew") as caught:
        Adapting(tmp_path / "controller.json")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_what_was_saved(adapting: Adapting, disk_full: Callable) -> None:
    adapting.choose("tiny", front(), "1", "chat", structured=False)
    adapting.save()
    before = adapting.path.read_text()
    adapting.choose("tiny", front(), "1", "chat", structured=True)
    with disk_full(100), pytest.raises(OSError):
        adapting.save()
    assert adapting.path.read_text() == before and [*adapting.path.parent.glob("*")] == [adapting.path]


def test_memory_is_bounded(adapting: Adapting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.serve.adapting.REMEMBERED", 3)
    choice = adapting.choose("tiny", front(), "1", "chat", structured=False)
    for number in range(5):
        adapting.begin(str(number), "tiny", choice)
    thumb = lambda name: Feedback(response_id=name, kind="thumb", value=1)  # noqa: E731
    assert [adapting.judged(thumb(str(n)), [response(str(n))]) for n in range(5)] == [False, False, True, True, True]


def test_a_server_learns_and_knows_it_after_being_killed(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"me:{KEY}\n")
    (tmp_path / "presets.toml").write_text("[tiny.hasty]\nthreshold = 0.3\ntokens_per_step = 4\n")
    headers = {"authorization": f"Bearer {KEY}"}
    words = ["--api-key-file", f"{tmp_path}/keys", "--feedback-url", f"{tmp_path}/feedback.db", "--adapt"]
    words += ["--adapt-file", f"{tmp_path}/controller.json", "--presets", f"{tmp_path}/presets.toml"]

    def learned(server: Server) -> dict[str, Any]:
        return httpx.get(f"{server.url}/v1/controller", headers=headers).json()["models"]["tiny"]["kinds"]

    server = Server(*words)
    for _ in range(6):
        answer = server.client.completions.create(model="tiny", prompt="Tom", max_tokens=4)
        told = answer.model_extra["diffusion"]["controller"]
        assert told["preset"] in PRESETS | {"hasty"}
        said = {"response_id": answer.id, "kind": "rating", "value": 5}
        httpx.post(
            f"{server.url}/v1/feedback", json=said, headers={"authorization": f"Bearer {KEY}"}
        ).raise_for_status()
    before = learned(server)["completion"]
    saved = lambda: json.loads((tmp_path / "controller.json").read_text())["models"]["tiny"]["controller"]  # noqa: E731
    _wait(lambda: sum(arm["judged"] for arm in saved()["kinds"]["completion"]["arms"].values()) > 5.8)
    os.kill(server.process.pid, signal.SIGKILL)
    server.end()
    server = Server(*words)
    server.client.completions.create(model="tiny", prompt="Tom", max_tokens=4)
    after = learned(server)["completion"]
    assert {name: one["quality"] for name, one in after.items()} == {n: one["quality"] for n, one in before.items()}
    assert sum(one["used"] for one in after.values()) == 7
    assert server.end() == (0, "")


def _wait(done: Callable[[], bool]) -> None:
    import time

    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_the_utility_of_a_file_may_change(adapting: Adapting) -> None:
    adapting.choose("tiny", front(), "1", "chat", structured=False)
    adapting.save()
    again = Adapting(adapting.path, Utility(weight=0.9))
    assert again.told()["utility"]["weight"] == 0.9
