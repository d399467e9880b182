"""A run that hangs ends by itself and says where; one that is only slow, or was suspended, does not."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sfumato.config import Recipe, to_toml
from sfumato.train.loop import train
from sfumato.train.watchdog import HUNG, LONGER, Watchdog

# The fourth step waits for ever, as for a process that died; with the GIL released, as torch does.
HANGS = """
import sys, threading
from dataclasses import replace
from pathlib import Path
from sfumato.config import load_recipe
from sfumato.train.denoising import denoising
from sfumato.train.loop import train

def prepare(*found):
    run = denoising(*found)
    return replace(run, step=lambda: waits_for_ever() if run.state.step == 3 else run.step())

def waits_for_ever():
    threading.Event().wait()

train(load_recipe(sys.argv[1]), Path(sys.argv[2]), prepare=prepare)
"""


def test_a_step_that_hangs_ends_the_process_and_the_next_start_goes_on(
    tmp_path: Path, recipe: Callable[..., Recipe], column: Callable
) -> None:
    asked, run = recipe(steps=5, checkpoint_every=2, hang_after=1.0), tmp_path / "run"
    (tmp_path / "recipe.toml").write_text(to_toml(asked))
    command = [sys.executable, "-W", "error", "-c", HANGS, str(tmp_path / "recipe.toml"), str(run)]
    hung = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert hung.returncode == HUNG == os.EX_TEMPFAIL and hung.stderr.count("\n") == 1
    assert hung.stderr.startswith("sfumato: no step has ended for ") and "on rank 0" in hung.stderr
    assert f"exit code {HUNG}; where: {run}/hung-rank0.txt; the same command continues from the last" in hung.stderr
    report = (run / "hung-rank0.txt").read_text()
    assert "in waits_for_ever" in report and "in train" in report and "watchdog.py" in report
    assert train(asked, run)[1] == 0
    assert column(run, "step") == [1, 2, 3, 4, 5]


# Slow to begin, then fed; stopped for longer than a step may take, as by Ctrl-Z; at last something that may be longer.
SLOW = """
import sys, time
from pathlib import Path
from sfumato.train.watchdog import LONGER, Watchdog
with Watchdog(Path(sys.argv[1]), 1.0) as watchdog:
    time.sleep(1.5)
    print("steps", flush=True)
    for _ in range(5):
        watchdog.fed()
        time.sleep(0.2)
    watchdog.fed(LONGER)
    time.sleep(1.5)
print("over")
"""


def test_what_is_slow_or_suspended_does_not_hang(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "steps\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "over\n" and process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_without_a_limit_nothing_watches(tmp_path: Path) -> None:
    with Watchdog(tmp_path, 0) as watchdog:
        watchdog.fed(LONGER)
        assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
