"""Whatever stops a run, the same command continues it, and the result is that of a run nobody stopped, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import Recipe, to_toml
from sfumato.train.loop import train
from sfumato.train.run import RunError

Make = Callable[..., Recipe]
Outcome = Callable[[Path], dict[str, Any]]
COMMAND = """
import sys
from pathlib import Path
from sfumato.config import load_recipe
from sfumato.train.loop import train
print(train(load_recipe(sys.argv[1]), Path(sys.argv[2])))
"""


def at(number: int, act: Callable[[], Any]) -> Callable[[dict], None]:
    """Do something after that step."""
    return lambda record: act() if record["step"] == number else None


@pytest.mark.parametrize(
    "process, optimizer, number, step",
    [
        ({"objective": "elbo"}, "muon", signal.SIGTERM, 5),
        ({"objective": "count"}, "adamw", signal.SIGTERM, 1),
        ({"objective": "cross_entropy", "schedule": "cosine"}, "muon", signal.SIGINT, 8),  # just after a checkpoint
        ({"kind": "autoregressive"}, "adamw", signal.SIGINT, 11),
        ({"kind": "insertion"}, "muon", signal.SIGTERM, 5),
    ],
    ids=["elbo-muon", "count-adamw", "cross_entropy-muon", "autoregressive-adamw", "insertion-muon"],
)
def test_a_stopped_run_continues_bit_for_bit(
    tmp_path: Path,
    recipe: Make,
    watch: Callable,
    outcome: Outcome,
    process: dict,
    optimizer: str,
    number: int,
    step: int,
) -> None:
    asked = recipe(process=process, optimizer=optimizer, accumulate=2, batch=4)
    train(asked, tmp_path / "whole")
    stop = watch(at(step, lambda: signal.raise_signal(number)))
    assert train(asked, tmp_path / "stopped", watcher=stop) == (None, number)
    assert not (tmp_path / "stopped" / "model").exists()
    started: list[int] = []
    goes_on = watch(started=lambda first, *others: started.append(first))
    assert train(asked, tmp_path / "stopped", watcher=goes_on) == (tmp_path / "stopped" / "model", 0)
    assert started == [step]
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_a_signal_during_the_last_step_loses_nothing(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome
) -> None:
    train(recipe(steps=4), tmp_path / "whole")
    stop = watch(at(4, lambda: signal.raise_signal(signal.SIGTERM)))
    assert train(recipe(steps=4), tmp_path / "stopped", watcher=stop) == (tmp_path / "stopped" / "model", 0)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def wait_for_steps(process: subprocess.Popen, out: Path, count: int) -> None:
    """Until metrics.jsonl has grown to that many lines."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError(f"no {count} steps in two minutes")


def test_a_killed_process_continues_bit_for_bit(tmp_path: Path, recipe: Make, outcome: Outcome) -> None:
    """SIGTERM, then SIGKILL at a random moment, quite possibly while a checkpoint is being written."""
    asked, run = recipe(steps=60, checkpoint_every=2), tmp_path / "killed"
    (tmp_path / "recipe.toml").write_text(to_toml(asked))

    def command() -> subprocess.Popen:
        words = [sys.executable, "-W", "error", "-c", COMMAND, str(tmp_path / "recipe.toml"), str(run)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))

    process = command()
    wait_for_steps(process, run, 3)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120) == (f"(None, {int(signal.SIGTERM)})\n", "")
    assert process.returncode == 0
    steps = (run / "metrics.jsonl").read_bytes().count(b"\n")

    process = command()
    wait_for_steps(process, run, steps + 1)
    delay = random.uniform(0, 0.2)
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, f"it had finished after {delay} s"

    train(asked, run)
    train(recipe(steps=60, checkpoint_every=1000), tmp_path / "whole")
    assert outcome(run) == outcome(tmp_path / "whole"), f"killed after {delay} s"
    assert not list((run / "checkpoints").glob(".*"))


def test_after_a_damaged_checkpoint_the_run_goes_on_from_the_one_before(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome
) -> None:
    train(recipe(), tmp_path / "whole")
    train(recipe(), tmp_path / "run")
    tensors = tmp_path / "run" / "checkpoints" / "step-00000012" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4] + bytes(4))
    started: list[int] = []
    said: list[str] = []
    goes_on = watch(started=lambda first, *others: started.append(first))
    train(recipe(), tmp_path / "run", watcher=goes_on, say=said.append)
    assert started == [8] and len(said) == 1 and "set aside as damaged-00000012, using step-00000008" in said[0]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_another_recipe_does_not_touch_the_run(tmp_path: Path, recipe: Make, outcome: Outcome) -> None:
    train(recipe(steps=4), tmp_path)
    before = outcome(tmp_path)
    with pytest.raises(RunError, match=r"train.optimizer = 'muon', now it is 'adamw'"):
        train(recipe(steps=4, optimizer="adamw"), tmp_path)
    assert outcome(tmp_path) == before


def test_what_does_not_change_the_result_may_change_on_the_way(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome
) -> None:
    train(recipe(), tmp_path / "whole")
    stop = watch(at(5, lambda: signal.raise_signal(signal.SIGTERM)))
    train(recipe(checkpoint_every=3, keep=1), tmp_path / "changed", watcher=stop)
    train(recipe(checkpoint_every=100, keep=4, checkpointing=True), tmp_path / "changed")
    assert outcome(tmp_path / "changed") == outcome(tmp_path / "whole")
