"""torchrun itself: a killed process, a run that is stopped, and machines that are network namespaces."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli import main
from sfumato.cli import ranks as cli_ranks
from sfumato.config import Recipe
from sfumato.train import parallel
from sfumato.train.loop import train

STEPS, EVERY, LIMIT = 120, 10, 300.0
NEAR = {"rel": 1e-4, "abs": 1e-4}  # sums in another order, over all steps


@pytest.fixture
def prepared(recipe: Callable[..., Recipe], tmp_path: Path) -> tuple[Recipe, Path]:
    """A recipe, and a file of it."""
    made = recipe(steps=STEPS, checkpoint_every=EVERY, keep=2, shard=0)
    train(made, tmp_path / "alone")
    shutil.copy(tmp_path / "alone" / "config.toml", tmp_path / "recipe.toml")
    return made, tmp_path


@contextlib.contextmanager
def launched(*words: object, log: Path, inside: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with these words, inside of a namespace if it is named; what it prints goes to a file."""
    command = [*inside, sys.executable, "-m", "torch.distributed.run", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def losses(out: Path) -> list[float]:
    with contextlib.suppress(OSError, ValueError):  # not there yet, or the last line is being written
        return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    return []


def until(condition: Callable[[], Any], log: Path) -> Any:
    end = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return found


def children(process: int) -> list[int]:
    """Oldest first."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_process_and_a_stopped_run_change_nothing(prepared: tuple[Recipe, Path]):
    made, folder = prepared
    out, log = folder / "run", folder / "log"
    words = ("--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "sfumato", "train")
    with launched(*words, folder / "recipe.toml", "--out", out, log=log) as process:
        until(lambda: len(losses(out)) >= 3 * EVERY, log)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        killed = len(losses(out))
        until(lambda: "continuing at step" in log.read_text(), log)
        again = int(re.findall(r"continuing at step (\d+)", log.read_text())[0])
        assert killed - 2 * EVERY <= again <= killed + 1  # a checkpoint is written while the next steps are made
        until(lambda: len(losses(out)) > killed + 5, log)
        process.terminate()
        process.wait(LIMIT)
    stopped = int(re.findall(r"stopped by SIGTERM after step (\d+)", log.read_text())[0])
    assert killed < stopped == len(losses(out)) < STEPS
    assert (out / "checkpoints" / f"step-{stopped:08d}").is_dir()
    train(made, out)  # goes on alone
    assert losses(out) == pytest.approx(losses(folder / "alone"), **NEAR)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[tuple[str, str]]]:
    """Two network namespaces that see one another: their names and addresses."""
    if not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root, and ip")
    tag = f"sf{os.getpid()}"
    found = [(f"{tag}{side}", f"10.213.7.{number}") for number, side in enumerate("ab", 1)]
    try:
        for name, _ in found:
            ip("netns", "add", name)
        ip("link", "add", f"{tag}va", "netns", found[0][0], "type", "veth", "peer", f"{tag}vb", "netns", found[1][0])
        for name, address in found:
            link = f"{tag}v{name[-1]}"
            ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            for device in ("lo", link):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    else:
        yield found
    finally:
        for name, _ in found:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
def test_two_machines_train_together(prepared: tuple[Recipe, Path], hosts: list[tuple[str, str]]):
    _, folder = prepared
    out, logs = folder / "run", [folder / name for name, _ in hosts]
    first = hosts[0][1]
    with contextlib.ExitStack() as stack:
        for (name, address), log in zip(hosts, logs, strict=True):
            words = ["--nnodes=2", "--nproc-per-node=1", f"--local-addr={address}", "--rdzv-backend=c10d"]
            words += [
                f"--rdzv-endpoint={first}:29500",
                f"--rdzv-conf=is_host={int(address == first)}",
                "--rdzv-id=test",
            ]
            words += ["-m", "sfumato", "train", str(folder / "recipe.toml"), "--out", str(out), "--train.shard", "0"]
            device = f"GLOO_SOCKET_IFNAME={name[:-1]}v{name[-1]}"
            inside = ("ip", "netns", "exec", name, "env", device)
            stack.enter_context(launched(*words, log=log, inside=inside))
        # Who is told to end before it has said what it made never says it.
        until(lambda: any("steps; held-out" in log.read_text() for log in logs if log.exists()), logs[0])
    assert (out / "model" / "config.json").exists()
    assert losses(out) == pytest.approx(losses(folder / "alone"), **NEAR)
    said = [log.read_text() for log in logs]
    assert sorted("steps; held-out" in text for text in said) == [False, True], said


@pytest.mark.parametrize("rank, lines", [("0", 1), ("1", 0)])
@pytest.mark.parametrize(
    "words, told",
    [
        (["--train.widht", "3"], "unknown flag --train.widht"),
        (["--train.shard", "3"], "train.shard: 2 processes cannot be divided into groups of 3"),
        (["no.toml"], "no.toml: No such file"),
    ],
    ids=lambda words: str(words)[:14],
)
def test_a_mistake_that_all_processes_meet_is_told_once(
    words: list[str],
    told: str,
    rank: str,
    lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli_ranks, "LAST", 0)
    recipe = [] if words[0].endswith(".toml") else [str(Path(__file__).parents[2] / "recipes" / "quick.toml")]
    assert main(["train", *recipe, *words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    said = capfd.readouterr().err
    assert said.count(f"sfumato: {told}") == said.count("\n") == lines


def test_a_lost_process_is_one_line():
    gloo = "[/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:2947: Connection reset by peer"
    with pytest.raises(ConnectionError) as told, parallel._lost(2, 0):
        raise RuntimeError(f"{gloo}. This is typically caused by a remote worker.\nmore")
    assert str(told.value).startswith(
        f"process 2 on {socket.gethostname()} has lost another, or cannot reach it (Read error [127.0.0.1]:2947: "
        "Connection reset by peer); look"
    )
    with pytest.raises(parallel.ElsewhereError), parallel._lost(3, 1):
        raise RuntimeError(gloo)
    with pytest.raises(RuntimeError, match="shapes"), parallel._lost(0, 0):
        raise RuntimeError("shapes do not fit")
