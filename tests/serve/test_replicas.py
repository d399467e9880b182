"""Several servers behind one address: what they share, and what happens when one of them dies."""

import asyncio
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from servers import Server

from sfumato.model.bundle import find_bundle
from sfumato.sample.front import Front
from sfumato.serve.replicas.shared import Shared
from sfumato.store.registry import Registry

ray = pytest.importorskip("ray", reason="needs Ray (pip install 'sfumato[cluster]'), which is not installed")


class Replicas(Server):
    """Two replicas of one model that follows a registry, behind one address."""

    def __init__(self, registry: Registry, feedback: Path):
        self.registry = registry
        super().__init__("--registry", f"m={registry.folder}", "--replicas", "2", "--feedback-url", str(feedback))
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def complete(self, seed: int = 0, **fields) -> httpx.Response:
        body = {"prompt": "Once upon a time", "max_tokens": 24, "seed": seed, "temperature": 0.7, **fields}
        return self.http.post("/v1/completions", json=body)

    def stream(self, seed: int = 0, **fields) -> Iterator[dict]:
        """The chunks, of which the last may be an error; the end must have been said."""
        body = {"prompt": "Once upon a time", "max_tokens": 24, "seed": seed, "temperature": 0.7, "stream": True}
        with self.http.stream("POST", "/v1/completions", json=body | fields) as answer:
            assert answer.status_code == 200, answer.read()
            line = ""
            for line in filter(None, answer.iter_lines()):
                if line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))
            assert line == "data: [DONE]"

    def names(self) -> set[str]:
        """Of the replicas that say something of themselves."""
        lines = self.http.get("/metrics").text.splitlines()
        return {line.split('replica="')[1].split('"')[0] for line in lines if line.startswith("queue_depth{")}

    def processes(self, title: str) -> list[int]:
        """The server's own, by the beginning of their titles."""
        parents, titles = {}, {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(path.name)] = (path / "cmdline").read_text()

        def ours(pid: int) -> bool:
            return pid == self.process.pid or (pid in parents and ours(parents[pid]))

        return [pid for pid in parents if titles.get(pid, "").startswith(title) and ours(pid)]

    def end(self) -> tuple[int, str]:
        self.http.close()
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        if not self.process.stderr.closed:
            _, self.said = self.process.communicate(timeout=120)
        return self.process.returncode, self.said


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    home = tmp_path_factory.mktemp("replicas")
    registry = Registry(home / "registry", create=True)
    folder = Path(shutil.copytree(find_bundle("tiny"), home / "model"))
    for number in range(2):
        (folder / "config.json").write_text((folder / "config.json").read_text() + "\n" * number)
        registry.add(folder, Front.load(folder).version(), evidence={"passed": True})
    registry.promote(registry.versions()[0])
    try:
        server = Replicas(registry, home / "feedback.db")
    except AssertionError as error:
        if "cannot start Ray here" in str(error):
            pytest.skip(f"needs a machine where Ray starts: {error}")
        raise
    yield server
    server.end()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own settings
def test_a_cluster_runs_it_by_itself(monkeypatch: pytest.MonkeyPatch):
    from ray import serve

    from sfumato.cli.replicas import app

    monkeypatch.delenv("SFUMATO_FEEDBACK", raising=False)
    args = {"model": "tiny,tiny-ar", "replicas": "1:3,tiny-ar=2", "replica_gpus": "0.5"}
    assert isinstance(app(args), serve.Application)
    for args, why in (
        ({"feedback_url": "feedback.db"}, "a file is on one machine"),
        ({"modle": "tiny"}, "args: unknown key modle; did you mean model"),
    ):
        with pytest.raises(ValueError, match=why):
            app(args)


class Near:
    """An actor of Ray that is in this process."""

    def __init__(self, shared: Shared):
        self.shared = shared

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: asyncio.ensure_future(getattr(self.shared, name)(*args)))


def test_who_waits_for_a_turn_no_longer_keeps_nobody_waiting():
    from sfumato.serve.replicas.together import Turn

    async def test() -> None:
        shared = Shared(rate=0)
        for name in ("a", "b"):
            asyncio.create_task(shared.listen(name, "replica"))
        first, other = Turn(Near(shared), "a"), Turn(Near(shared), "b")
        async with first:
            waiting = asyncio.create_task(other.__aenter__())
            await asyncio.sleep(0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        for turn in (other, first):
            async with asyncio.timeout(2), turn:
                pass

    asyncio.run(test())


class Breaking:
    """A handle of replicas whose application breaks off; keeps how often it was asked."""

    def __init__(self, *messages: dict):
        self.messages, self.asked = messages, 0

    def remote(self, scope: dict, body: bytes) -> Any:
        self.asked += 1
        return self._Answers(([], *([message] for message in self.messages)))

    class _Answers:
        def __init__(self, batches: Iterable[list[dict]]):
            self.batches = iter(batches)

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> list[dict]:
            for batch in self.batches:
                return batch
            raise StopAsyncIteration

        def cancel(self) -> None:
            pass


def test_an_answer_that_breaks_off_is_no_whole_one(monkeypatch: pytest.MonkeyPatch):
    from sfumato.serve.replicas import gateway as module

    monkeypatch.setattr(module, "PAUSE", 0.0)
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    piece = {"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True}

    async def asked(handle: Breaking) -> list[dict]:
        gateway, sent = module.Gateway.__new__(module.Gateway), []
        gateway._first, gateway._several = handle, False

        async def receive() -> dict:
            return await asyncio.Future()

        async def send(message: dict) -> None:
            sent.append(message)

        await gateway._with_body({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
        return sent

    stream, nothing = Breaking(start, piece), Breaking(start)
    sent = asyncio.run(asked(stream))
    assert sent[:2] == [start, piece] and b"replica_lost" in sent[2]["body"] and sent[2]["body"].endswith(b"[DONE]\n\n")
    assert stream.asked == 1  # something was sent
    assert asyncio.run(asked(nothing))[0]["status"] == 503 and nothing.asked == module.TRIES


def test_nobody_else_is_replaced_on_a_cluster(monkeypatch: pytest.MonkeyPatch):
    from sfumato.serve.replicas import launch

    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications={"other": None}))
    launch._check_free("auto")
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications={launch.NAME: None}))
    with pytest.raises(ValueError, match="--ray-address: auto serves already"):
        launch._check_free("auto")


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.1)


class Load:
    """Clients that ask again and again until the end of the block."""

    def __init__(self, server: Replicas, clients: int = 2):
        self.server, self.answers, self.ending = server, [], threading.Event()
        self.pool, self.clients = ThreadPoolExecutor(clients), clients

    def __enter__(self) -> "Load":
        self.work = [self.pool.submit(self._ask, number) for number in range(self.clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.pool.shutdown()
        for work in self.work:
            work.result()

    def _ask(self, number: int) -> None:
        while not self.ending.is_set():
            number += self.clients
            self.answers.append(self.server.complete(number, max_tokens=12))


def test_the_same_server_as_one(server: Replicas):
    whole = [server.complete(7) for _ in range(4)]
    assert len({answer.json()["choices"][0]["text"] for answer in whole}) == 1  # whoever wrote it
    chunks = [*server.stream(7)]
    assert (
        "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
        == (whole[0].json()["choices"][0]["text"])
    )
    assert server.http.get("/ready").json() == {"status": "ready"}
    assert [model["id"] for model in server.http.get("/v1/models").json()["data"]] == ["m"]
    assert "<title>" in server.http.get("/").text
    for answer, status, code in (
        (server.complete(model="other"), 404, "model_not_found"),
        (server.http.post("/v1/completions", content=b"{"), 400, "invalid_json"),
        (server.http.post("/v1/completions", content=b"x" * (2 << 20)), 413, "request_too_large"),
        (server.http.get("/nowhere"), 404, "not_found"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert len(server.names()) == 2
    assert server.http.get("/v1/stats").json()["requests"] == 5


def test_feedback_and_cancelling_reach_whoever_wrote_it(server: Replicas):
    for seed in range(8):
        told = {"response_id": server.complete(seed, max_tokens=4).json()["id"], "kind": "thumb", "value": 1}
        assert server.http.post("/v1/feedback", json=told).status_code == 201
    assert server.http.get("/v1/stats").json()["feedback"] == {"thumb_up": 8}
    for seed in range(4):
        stream = server.stream(seed, max_tokens=200, steps=200, diffusing=True)
        first = next(stream)
        assert server.http.post("/v1/cancel", json={"id": first["id"]}).json()["cancelled"] is True
        assert [*stream][-1]["usage"]["completion_tokens"] < 200
    assert server.http.post("/v1/cancel", json={"id": "cmpl-none"}).status_code == 404


def test_who_leaves_frees_the_rows(server: Replicas):
    body = {"prompt": "Once upon a time", "max_tokens": 200, "steps": 200, "stream": True}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        with client.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())
    until(lambda: server.http.get("/v1/stats").json()["running"] == 0)
    assert 'path="/v1/completions"' in server.http.get("/metrics").text


def test_a_version_rolls_without_downtime(server: Replicas):
    first, second = server.registry.versions()
    with Load(server) as load:
        until(lambda: len(load.answers) > 8)
        server.registry.promote(second)
        until(lambda: second.fingerprint in {answer.json()["system_fingerprint"] for answer in load.answers[-1:]})
        until(lambda: all(a.json()["system_fingerprint"] == second.fingerprint for a in load.answers[-12:]))
    assert {answer.status_code for answer in load.answers} == {200}
    versions = [answer.json()["system_fingerprint"] for answer in load.answers]
    assert set(versions) == {first.fingerprint, second.fingerprint} and versions[0] == first.fingerprint
    assert {server.complete(seed, max_tokens=4).json()["system_fingerprint"] for seed in range(8)} == {
        second.fingerprint
    }


def test_a_replica_that_is_killed_loses_no_request_without_a_word(server: Replicas):
    before = server.names()
    streams = [server.stream(seed, max_tokens=200, steps=200, diffusing=True) for seed in range(6)]
    with Load(server) as load:
        until(lambda: len(load.answers) > 4)
        for stream in streams:
            next(stream)
        os.kill(server.processes("ray::ServeReplica:sfumato:models")[0], signal.SIGKILL)
        ends = [[*stream][-1] for stream in streams]
        done = len(load.answers)
        until(lambda: len(load.answers) > done + 4)
    assert {answer.status_code for answer in load.answers} == {200}  # asked again, of the other one
    broken = [end["error"]["code"] for end in ends if "error" in end]
    assert set(broken) == {"replica_lost"} and len(broken) < len(ends)  # what was begun elsewhere goes on
    until(lambda: len(server.names()) == 2 and server.names() != before)


def test_the_end(server: Replicas):
    server.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    pids = server.processes("")
    words = "".join(path.read_text() for pid in pids if (path := Path(f"/proc/{pid}/cmdline")).exists())
    folders = set(re.findall(r"/[^\0=]*/sfumato-ray-\w{8}", words))
    stream = server.stream(1, max_tokens=64, steps=64)
    next(stream)
    server.process.send_signal(signal.SIGTERM)
    assert [*stream][-1]["choices"][0]["finish_reason"]  # what runs is finished
    code, said = server.end()
    assert code == 0 and "Traceback" not in said and "model m: unchanged" in said, said
    assert len(folders) == 1 and not Path(*folders).exists()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
