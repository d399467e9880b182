"""Checks that a child process runs, and that do not go well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from sfumato.doctor.finding import Finding


def well(word: str = "fine") -> Iterator[Finding]:
    print("noise that is no finding")
    yield Finding("well", word, figures={"pid": os.getpid()})


def raises() -> Iterator[Finding]:
    yield Finding("first", "fine")
    raise RuntimeError("two\n lines")


def hangs() -> Iterator[Finding]:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield Finding("sleeper", "asleep", figures={"pid": sleeper.pid})
    time.sleep(60)


def dies(name: str) -> Iterator[Finding]:
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.Signals[name])
    yield Finding("never", "said")
