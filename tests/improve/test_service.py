"""The whole of it: a real server, a real database, people who correct answers, and a model that gets better, or not."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pilot import GOOD

from sfumato.cli import main
from sfumato.store.registry import Registry


class Service:
    """A server that follows a registry and keeps feedback."""

    def __init__(self, registry: Registry, feedback: Path):
        words = ["--registry", registry.folder, "--feedback-url", feedback, "--port", 0, "--threads", 1]
        command = [sys.executable, "-m", "sfumato", "serve", *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert " at " in line, self.process.communicate()
        self.client = httpx.Client(base_url=line.split(" at ")[1].strip(), timeout=60)

    def ask(self, said: str) -> dict:
        body = {"messages": [{"role": "user", "content": said}], "max_tokens": 8, "temperature": 0, "seed": 1}
        answer = self.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def says(self, said: str) -> str:
        return self.ask(said)["choices"][0]["message"]["content"]

    def correct(self, said: str, correction: str) -> None:
        body = {"response_id": self.ask(said)["id"], "kind": "correction", "correction": correction}
        assert self.client.post("/v1/feedback", json=body).status_code == 201

    def correct_all(self, corrections: list[tuple[str, str]]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: self.correct(*one), corrections))

    def version(self) -> str:
        facts = self.client.get("/v1/models").json()["data"][0]["diffusion"]
        assert facts["registry"]["version"].endswith(facts["version"])
        return facts["registry"]["version"]

    def until(self, version: str) -> None:
        end = time.monotonic() + 30
        while self.version() != version:
            assert time.monotonic() < end, (self.version(), version)
            time.sleep(0.1)

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        _, told = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, told


@pytest.fixture
def service(registry: Registry, tmp_path: Path) -> Iterator[Service]:
    service = Service(registry, tmp_path / "feedback.db")
    yield service
    service.stop()


@pytest.fixture
def improve(registry: Registry, improving: Path, tmp_path: Path, capsys) -> Callable[..., dict]:
    def run() -> dict:
        capsys.readouterr()
        flags = ["--registry", registry.folder, "--feedback", tmp_path / "feedback.db", "--recipe", improving, "--json"]
        assert main(["improve", *map(str, flags), "--tolerance", "0.1"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.slow
def test_good_feedback_is_promoted_poison_is_refused_and_all_can_be_undone(service, registry, improve):
    first = registry.current()
    assert service.version() == first.id and service.says("white 77") != "u"
    service.correct_all(GOOD)

    answered, stop = [], threading.Event()

    def visit() -> None:
        while not stop.is_set():
            answered.append(service.ask("blue 3"))
            time.sleep(0.05)

    visitor = threading.Thread(target=visit)
    visitor.start()
    outcome = improve()
    assert outcome["status"] == "promoted", outcome
    service.until(outcome["version"])
    stop.set()
    visitor.join()
    second = registry.current()
    assert second.parent == first.id and second.dataset and second.recipes
    assert [service.says(f"white {i}") for i in (77, 91)] == ["u"] * 2 and service.says("pink 66") == "w"
    assert {answer["choices"][0]["message"]["content"] for answer in answered} == {"c"}  # nobody noticed
    assert {answer["system_fingerprint"] for answer in answered} <= {first.fingerprint, second.fingerprint}

    chance = random.Random(1)
    asked = [f"{colour} {i}" for i in range(20) for colour in ("red", "blue", "green", "black")]
    garbage = [(said, "".join(chance.choices("abcdefguvw 0123456789", k=9))) for said in asked]
    service.correct_all(garbage)
    outcome = improve()
    print(outcome)
    assert outcome["status"] == "refused", outcome
    assert "held-out text" in outcome["reasons"][0] and "is allowed" in outcome["reasons"][0]
    assert registry.current() == second and service.version() == second.id and service.says("blue 3") == "c"
    refused = registry.find(outcome["version"])
    assert registry.evidence(refused)["passed"] is False
    assert main(["models", "promote", refused.id, "--registry", str(registry.folder)]) == 2

    assert main(["models", "rollback", "--registry", str(registry.folder)]) == 0
    service.until(first.id)
    assert service.says("white 77") != "u" and service.says("blue 3") == "c"
