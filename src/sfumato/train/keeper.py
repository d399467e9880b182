"""Writes the checkpoints of a run, and does not let a bad hour of the disk end it."""

from pathlib import Path

from sfumato.train import checkpoint
from sfumato.train.retry import FULL, Say, kind, retried
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
        if not self._state.finite():  # the last checkpoint is better, and stays the newest
            self._say(f"step {self._state.step}: not saved, weights or moments are not finite")
            return
        alert = must or bool(self._missed) or not self._settled()
        try:
            retried(lambda: self._write(wait=alert), self._say, self._cure)
        except OSError as error:
            self._missed += 1
            if must or self._missed == FAILURES or not self._kind(error):
                raise
            self._say(f"{error}; training goes on without it, and ends if {FAILURES} in a row cannot be written")
        else:
            self._missed = 0

    def _settled(self) -> bool:
        """Whether the one before, which may have been written while training went on, is complete."""
        try:
            self._state.settle()
        except OSError as error:
            if not self._kind(error):
                raise
            self._say(str(error))
            return False
        return True

    def _write(self, *, wait: bool) -> None:
        self._state.save(self._folder, self._keep)
        if wait:
            self._state.settle()

    def _cure(self, error: OSError) -> bool:
        """Make room if the disk is full; whether to try again."""
        found = self._kind(error)
        if found == FULL:
            self._make_room()
        return bool(found)

    def _kind(self, error: OSError) -> int:
        """What trouble it is, for all processes: that of the one which has seen most of it."""
        return self._state.processes.most(kind(error))

    def _make_room(self) -> None:
        """Delete what is needed least: a damaged checkpoint, else the oldest, but never the newest that is whole."""
        if not self._state.processes.first:
            return
        found = checkpoint.checkpoints(self._folder)
        whole = next((path for path in reversed(found) if checkpoint.fault(path) is None), None)
        least = next(iter([*sorted(self._folder.glob("damaged-*")), *found]), None)
        if least and whole and least != whole:
            checkpoint.discard(least)
            self._say(f"{least}: deleted, since the disk is full; {whole.name} is whole")
