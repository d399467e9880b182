"""Ends a run that hangs, so that whatever started it can start it again.

A process may wait forever: for another that died in a collective operation, for a kernel that never ends, for a network
disk. Nothing in it notices, and the machines are paid for all the same. A thread counts the seconds since the last
step; when they are too many it writes down where every thread is and ends the process at once, for a process that
hangs cannot be asked to clean up. Checkpoints are whole at any moment, so nothing else is lost.
"""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

HUNG = 75  # the exit code; EX_TEMPFAIL of sysexits.h: a temporary failure, try again
LONGER = 10  # times as long as a step: the first one with its compilation, an evaluation, a checkpoint
_PATIENCE = 10.0  # seconds that writing the report may take; its disk may be what hangs


class Watchdog:
    """Ends the process when it is not fed in time; a context in which that holds."""

    def __init__(self, folder: Path, seconds: float, rank: int = 0):
        """Nothing happens before the context is entered.

        Args:
            folder: where `hung-rank0.txt` is written.
            seconds: how long a step may take; 0 = for ever.
            rank: of this process among those that train together.
        """
        self._report, self._seconds, self._rank = folder / f"hung-rank{rank}.txt", seconds, rank
        self._over = threading.Event()
        self._fed = [LONGER * seconds]  # a new list each time, which is how the other thread sees it
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Begin to watch; the first step may take longer."""
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Watch no longer."""
        self._over.set()

    def fed(self, times: float = 1) -> None:
        """A step has ended; the next thing may take `times` as long as a step may."""
        self._fed = [times * self._seconds]

    def _watch(self) -> None:
        """Count the seconds in which this process ran: one that was suspended for a night does not hang."""
        tick = min(self._seconds / 4, 5.0)
        fed, waited, last = self._fed, 0.0, time.monotonic()
        while not self._over.wait(tick):
            now = time.monotonic()
            waited = waited + min(now - last, 2 * tick) if self._fed is fed else 0.0
            fed, last = self._fed, now
            if waited > fed[0]:
                self._bite(waited)

    def _bite(self, waited: float) -> None:
        line = f"no step has ended for {waited:.0f} s on rank {self._rank}: it hangs, ended with exit code {HUNG}"
        told = f"{line}; where: {self._report}; the same command continues from the last checkpoint"
        acts = (lambda: self._write(line), lambda: _cry(told))  # either may hang as well
        threads = [threading.Thread(target=act, daemon=True) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE)
        os._exit(HUNG)

    def _write(self, line: str) -> None:
        """The stacks of all threads; on standard error where the folder does not take them."""
        try:
            with open(self._report, "w", encoding="utf-8") as file:
                print(line, file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)


def _cry(line: str) -> None:
    """Straight to standard error: whoever writes there through Python may be what hangs."""
    shown = "\x1b[?25h\n" if os.isatty(2) else ""  # a progress bar hides the cursor
    os.write(2, f"{shown}sfumato: {line}\n".encode())
