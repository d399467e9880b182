"""Writes the checkpoints of a run, and does not let a bad hour of the disk end it."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from sfumato.train import checkpoint
from sfumato.train.parallel import ElsewhereError
from sfumato.train.retry import FULL, PASSES, STAYS, Say, kind, retried
from sfumato.train.state import State

FAILURES = 3  # checkpoints in a row; a run that cannot save for longer is a run that will be lost


class Keeper:
    """Saves a run's state, again where that fails, and goes on without a checkpoint where it fails for long.

    Of processes that train together all call it together, and come to the same decisions.
    """

    def __init__(self, state: State, folder: Path, keep: int, say: Say):
        """Nothing is written yet.

        Args:
            state: what is saved.
            folder: of the checkpoints.
            keep: how many stay.
            say: told of each failure.
        """
        self._state, self._folder, self._keep, self._say = state, folder, keep, say
        self._missed = 0

    def save(self, *, must: bool = False) -> None:
        """Write a checkpoint, and unless it `must` be, go on without where that is impossible for now.

        Raises:
            OSError: it cannot be written although it must, for the third time in a row, or for a reason that stays.
        """
        state = self._state
        if not state.finite():  # the last checkpoint is better, and stays the newest
            if state.processes.first:
                self._say(f"step {state.step}: not saved, weights or moments are not finite")
            return
        alert = must or bool(self._missed) or not self._settled()
        try:
            retried(lambda: self._write(wait=alert), self._tell, self._make_room)
        except OSError as error:
            self._missed += 1
            if must or self._missed == FAILURES or kind(error) == STAYS:
                raise
            self._tell(error, f"training goes on without it, and ends if {FAILURES} in a row cannot be written")
        else:
            self._missed = 0

    def _settled(self) -> bool:
        """Whether the one before, which may have been written while training went on, is complete."""
        try:
            with self._shared():
                self._state.settle()
        except OSError as error:
            if kind(error) == STAYS:
                raise
            self._tell(error, "training goes on without it")
            return False
        return True

    def _write(self, *, wait: bool) -> None:
        with self._shared():
            self._state.save(self._folder, self._keep)
            if wait:
                self._state.settle()

    def _tell(self, error: OSError, then: str) -> None:
        if not isinstance(error, ElsewhereError):
            self._say(f"{error}; {then}")

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        """Make an error that all processes have one of the same kind for all, and let one of them tell it."""
        try:
            yield
        except OSError as error:
            processes = self._state.processes
            if processes.count == 1:
                raise
            mine = not isinstance(error, ElsewhereError)
            first_tells = processes.most(int(processes.first and mine))
            tells = mine and (processes.first or not first_tells)
            told = OSError(str(error)) if tells else ElsewhereError("another process tells why")
            told.errno = {STAYS: None, PASSES: errno.EIO, FULL: errno.ENOSPC}[processes.most(kind(error))]
            raise told from None

    def _make_room(self) -> None:
        """Delete what is needed least: a damaged checkpoint, else the oldest, but never the newest that is whole."""
        if not self._state.processes.first:
            return
        with contextlib.suppress(OSError):  # a disk that cannot even be read gives no reason to delete anything
            found = checkpoint.checkpoints(self._folder)
            whole = next((path for path in reversed(found) if checkpoint.fault(path) is None), None)
            least = next(iter([*sorted(self._folder.glob("damaged-*")), *found]), None)
            if least and whole and least != whole:
                checkpoint.discard(least)
                self._say(f"{least}: deleted, since the disk is full; {whole.name} is whole")
