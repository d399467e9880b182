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
from sfumato.train.watchdog import HUNG, LONGER, Watchdog

# Step 3 of the first start waits for ever, as for a process that died; with the GIL released, as torch does.
HANGS = """
import sys, threading
from dataclasses import replace
from pathlib import Path
from sfumato.config import load_recipe
from sfumato.train.denoising import denoising
from sfumato.train.loop import train

def prepare(*found):
    run = denoising(*found)
    def step():
        if run.state.step == 2 and not Path(sys.argv[2], "hung-rank0.txt").exists():
            waits_for_ever()
        return run.step()
    return replace(run, step=step)

def waits_for_ever():
    threading.Event().wait()

print(train(load_recipe(sys.argv[1]), Path(sys.argv[2]), prepare=prepare)[1])
"""


def test_a_step_that_hangs_ends_the_process_and_the_next_start_goes_on(
    tmp_path: Path, recipe: Callable[..., Recipe], column: Callable
) -> None:
    asked = recipe(steps=4, checkpoint_every=1, hang_after=1.0)
    (tmp_path / "recipe.toml").write_text(to_toml(asked))
    run = tmp_path / "run"
    command = [sys.executable, "-W", "error", "-c", HANGS, str(tmp_path / "recipe.toml"), str(run)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert first.returncode == HUNG == os.EX_TEMPFAIL and first.stdout == ""
    line = first.stderr.splitlines()[-1]
    assert line.startswith("sfumato: no step has ended for ") and f"exit code {HUNG}; where: {run}/hung-rank0" in line
    assert "continues from the last checkpoint" in line and first.stderr.count("\n") == 1
    report = (run / "hung-rank0.txt").read_text()
    assert "in waits_for_ever" in report and "in train" in report and "watchdog.py" in report
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (again.returncode, again.stdout, again.stderr) == (0, "0\n", "")
    assert column(run, "step") == [1, 2, 3, 4]


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
