"""A text file that grows as training goes; what the disk does not take waits in memory, and training goes on."""

import io
from pathlib import Path

from sfumato.model.weights import unwritten
from sfumato.train.retry import Say, kind, retried, saying


class Journal:
    """Text that is appended to a file, whole and in order, as soon as the disk takes it."""

    def __init__(self, path: Path, say: Say):
        """Nothing is opened before there is something to write.

        Args:
            path: the file; created where there is none.
            say: told when the disk takes nothing more, and when it does again.
        """
        self._path, self._say = path, say
        self._file: io.FileIO | None = None
        self._waiting = b""
        self._told = False

    def add(self, text: str) -> None:
        """Append, now or later.

        Raises:
            OSError: the file cannot be written, and waiting would not help.
        """
        self._waiting += text.encode()
        try:
            self._write()
        except OSError as error:
            if not kind(error):
                raise
            if not self._told:
                self._say(f"{error}; training goes on, and what is missing is written later")
            self._told = True
            return
        if self._told:
            self._say(f"{self._path}: can be written again, nothing is missing")
        self._told = False

    def finish(self) -> None:
        """Write all that is waiting.

        Raises:
            OSError: that cannot be done, even after some patience.
        """
        retried(self._write, saying(self._say))

    def close(self) -> None:
        """Close the file; what is waiting is lost."""
        if self._file:
            self._file.close()

    def _write(self) -> None:
        try:
            while self._waiting:
                self._file = self._file or io.FileIO(self._path, "a")
                taken = self._file.write(self._waiting)  # a disk that gets full takes a part
                self._waiting = self._waiting[taken:]
        except OSError as error:
            raise unwritten(f"{self._path}: cannot write ({error}); checkpoints are intact", error) from None
