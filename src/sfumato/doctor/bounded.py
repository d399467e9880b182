"""Checks with an end: each runs in a child process, and one that crashes or hangs is a finding like any other."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sfumato.doctor.finding import Check, Finding

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from sfumato.doctor.child import main; main()"
_RANK = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_")

_DEATH = 5.0  # seconds until a process that was killed is left to the system

Begun = Callable[[Check], None]  # told of a check before it runs


def alone(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is no rank of a distributed run."""
    return {name: value for name, value in environ.items() if not name.startswith(_RANK)}


def examine(
    checks: Sequence[Check], environ: Mapping[str, str], begun: Begun = lambda check: None
) -> Iterator[tuple[Check, Finding]]:
    """Run checks one after the other, in one child for as long as it lives.

    Yields:
        Each check with each of its findings, as soon as there is one.
    """
    child: Child | None = None
    try:
        for check in checks:
            begun(check)
            if child is None or not child.alive:
                child = Child(environ)
            for finding in child.run(check):
                yield check, finding
    finally:
        if child:
            child.close()


class Child:
    """A process that runs checks; a context manager that leaves none behind."""

    def __init__(self, environ: Mapping[str, str], *, leader: bool = True):
        """Start it.

        Args:
            environ: its environment.
            leader: of a group of its own, with which everything that a check has started ends; False joins ours.
        """
        self._errors = tempfile.TemporaryFile()
        self._leader = leader and hasattr(os, "killpg")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=dict(environ),
            start_new_session=self._leader,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._closed = False
        assert self._process.stdout is not None
        threading.Thread(target=_collect, args=(self._process.stdout, self._lines), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it can take another check."""
        return not self._closed and self._process.poll() is None

    def ask(self, check: Check) -> None:
        """Hand it a check, and do not wait; `findings` does."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; `findings` tells
            self._process.stdin.write(json.dumps(asdict(check)) + "\n")
            self._process.stdin.flush()

    def findings(self, check: Check) -> Iterator[Finding]:
        """What it finds; past the limit, or where it dies, a last finding says so."""
        end = time.monotonic() + check.limit
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.close()
                yield Finding(
                    check.title,
                    f"no answer within {check.limit:.0f} s",
                    "fail",
                    "something hangs or is very slow: try again when the machine is idle, then look at the part named",
                )
                return
            if not line:
                crash = self._crash(check)
                self.close()
                yield crash
                return
            message: dict[str, Any] | None = json.loads(line)
            if message is None:
                return
            yield Finding(**message)

    def run(self, check: Check) -> Iterator[Finding]:
        """`ask`, then `findings`."""
        self.ask(check)
        return self.findings(check)

    def close(self) -> None:
        """End it, and everything that it has started."""
        if self._closed:  # by now its number may belong to another process
            return
        self._closed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._leader:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs holds it where no signal reaches
            self._process.wait(_DEATH)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                stream.close() if stream else None
        self._errors.close()

    def _crash(self, check: Check) -> Finding:
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        advice = "the process that tried this ended by itself: reinstall what the message names"
        if code == -signal.SIGKILL:
            advice = "the process was killed, most likely because memory ran out: give the machine or container more"
        elif code == -getattr(signal, "SIGILL", 4):
            advice = "this CPU lacks instructions that the installed torch uses: install a build for this CPU"
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return Finding(check.title, ": ".join([how, *last])[:300], "fail", advice)


def _collect(stream: IO[str], lines: "queue.Queue[str]") -> None:
    with contextlib.suppress(ValueError, OSError):  # closed under our hands
        for line in stream:
            lines.put(line)
    lines.put("")
