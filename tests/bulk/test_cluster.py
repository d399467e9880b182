"""Actors of Ray write what one process writes, whoever of them is killed; one Ray is started for all of it."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import make
from doubling import EXPECTED, ROWS, kind, whole, worked_on, workers

from sfumato.bulk.cluster import Actor, _resources
from sfumato.bulk.inputs import look
from sfumato.bulk.run import Shard, run
from sfumato.cli import main
from sfumato.text.tokenizer import Tokenizer

# Of Ray's own code: settings that it sets itself, and processes that it leaves to the system.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    pytest.importorskip("ray")
    from sfumato.cluster import connected

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        with connected("tests", cpus=2) as module:  # whose processes find what tests share there
            yield module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bulk") / "model"
    make(Tokenizer.train(["Once upon a time there was a little cat. It sat on the mat. größer " * 3], 290)).save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {i}}}\n' for i in range(ROWS)))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def wait_for(log: Path, count: int) -> None:
    until = time.monotonic() + 100
    while len(worked_on(log)) < count:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.01)


def wait_until_gone(processes: set[int]) -> None:
    until = time.monotonic() + 60
    while left := [process for process in processes if Path(f"/proc/{process}/cmdline").is_file()]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


def test_actors_write_what_one_process_writes(ray, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    lines = [{"prompt": f"cat {i}", "max_tokens": 4 + i % 9, "id": i} for i in range(40)]
    lines[7] = {"prompt": "a cat " * 100}
    source, one, many = tmp_path / "in.jsonl", tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--model", str(model), "--device", "cpu", "--dtype", "float32", "--input", str(source)]
    generate = ["generate", *words, "--seed", "5", "--on-error", "skip", "--json"]
    assert main([*generate, "--output", str(one)]) == 0
    alone = json.loads(capfd.readouterr().out)
    assert main([*generate, "--output", str(many), "--replicas", "2", "--shard-rows", "6"]) == 0
    found, noise = capfd.readouterr()
    assert many.read_bytes() == one.read_bytes()
    assert [line for line in noise.splitlines() if not line.startswith("writing ")] == []  # our progress alone
    same = ("lines", "resumed", "errors", "tokens", "nfe")
    assert {name: json.loads(found)[name] for name in same} == {name: alone[name] for name in same}
    assert alone["errors"] == 1 and "error" in json.loads(many.read_text().splitlines()[7])

    scored, measure = tmp_path / "scored", ["likelihood", *words, "--field", "prompt", "--samples", "3", "--json"]
    assert main([*measure, "--output", str(tmp_path / "one-scored.jsonl")]) == 0
    expected = json.loads(capfd.readouterr().out)
    assert main([*measure, "--output", str(scored), "--replicas", "1", "--shard-rows", "13"]) == 0
    mean = json.loads(capfd.readouterr().out)["nats_per_token"]
    assert (
        mean["value"] == pytest.approx(expected["nats_per_token"]["value"], rel=1e-6)
        and len(list(scored.iterdir())) == 6
    )


def test_a_killed_actor_is_replaced_and_nothing_is_done_twice(ray, source: Path, log: Path, tmp_path: Path):
    def kill() -> None:
        wait_for(log, 30)
        os.kill(min(workers(log)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = run(kind(log, pause=0.03), str(source), str(tmp_path / "out"), replicas=2, shard_rows=25)
    killer.join()
    assert whole(tmp_path / "out") == EXPECTED and len(workers(log)) == 3
    assert len(worked_on(log)) <= ROWS + 1 and done["resumed"] > 0  # the one it was at


def test_a_killed_driver_is_gone_on_with(ray, source: Path, log: Path, tmp_path: Path):
    target = tmp_path / "out.jsonl"
    child = (
        "import sys; from pathlib import Path; from doubling import kind; from sfumato.bulk.run import run;"
        "run(kind(Path(sys.argv[1]), pause=0.05), *sys.argv[2:4], replicas=1, shard_rows=40, address=sys.argv[4])"
    )
    address = ray.get_runtime_context().gcs_address
    words = [sys.executable, "-c", child, str(log), str(source), str(target), address]
    process = subprocess.Popen(words, cwd=Path(__file__).parents[1])
    wait_for(log, 50)
    process.kill()
    process.wait()
    assert not target.exists()
    done = run(kind(log), str(source), str(target), replicas=1)
    assert target.read_bytes() == EXPECTED and done["resumed"] >= 50 and len(worked_on(log)) <= ROWS + 1
    wait_until_gone(workers(log))


def test_what_goes_wrong_in_an_actor_is_one_line(ray, source: Path, log: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^\S*in\.jsonl:8: cannot$"):
        run(kind(log, stop=7), str(source), str(tmp_path / "out.jsonl"), replicas=1)


def test_an_actor_finds_what_the_command_names(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("in.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    shard = Shard(tuple(look("in.jsonl").pieces(0, 2)), Path("part.jsonl"))
    monkeypatch.chdir(tmp_path)  # as where another cluster was started
    actor = Actor(kind(log), 1, str(tmp_path / "here"))
    (told,) = actor({"shard": [pickle.dumps(shard)]})["done"]
    assert pickle.loads(told)["rows"] == 2 and (tmp_path / "here" / "part.jsonl").exists()
    (told,) = Actor(kind(log), 1, str(tmp_path / "none"))({"shard": [pickle.dumps(shard)]})["done"]
    assert isinstance(pickle.loads(told), ValueError)  # a machine without that folder


def test_an_actor_takes_a_gpu_or_its_share_of_the_cores():
    assert _resources([{"CPU": 8}], 2) == ({"num_cpus": 4}, 4)
    assert _resources([{"CPU": 2}], 4) == ({"num_cpus": 0.5}, 1)
    assert _resources([{"CPU": 4}, {"CPU": 4}, {"CPU": 4}], 2) == ({"num_cpus": 4}, 4)  # none is spread over two
    assert _resources([{"CPU": 16, "GPU": 4}, {"CPU": 4}], 4) == ({"num_gpus": 1, "num_cpus": 1.0}, 5)
    with pytest.raises(ValueError, match="--replicas: got 3, but there are 2 GPUs"):
        _resources([{"CPU": 16, "GPU": 2}], 3)
