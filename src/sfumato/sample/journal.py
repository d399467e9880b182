"""A file of JSON lines that is only ever appended to, so that whoever writes it may be killed at any time."""

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self


class Busy(ValueError):
    """Another process is writing the file."""


class OtherRun(ValueError):
    """What is there was written by a run of something else."""

    @classmethod
    def at(cls, where: str, what: str = "") -> "OtherRun":
        """The error, of a place in a file."""
        return cls(
            f"{where}: not what this run would write{what} (other settings, model or input?); name another output, or "
            "remove this one to begin anew"
        )


class Journal:
    """What is already there, and a way to add to it.

    Attributes:
        path: the file.
        there: the lines that it held when it was opened.
    """

    def __init__(self, path: str | Path, mark: str):
        """Open a file, or begin one; a last line that was torn off while it was written is taken away.

        Args:
            path: the file.
            mark: a key that every line written here has, by which a file of somebody else is told apart.

        Raises:
            ValueError: a line that was not written here, or another process that is writing (`Busy`); the file is as it
                was.
            OSError: the file cannot be read or written.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._opened()
        try:
            self.there, whole = _read(self.path, mark)
        except ValueError:
            self._file.close()
            raise
        if self.path.stat().st_size > whole:
            self._file.truncate(whole)

    def _opened(self) -> BinaryIO:
        """The file, for this process alone; the system lets go of it when the process ends, however it ends."""
        file = self.path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Busy(f"{self.path}: another process is writing it; wait for it, or name another file") from None
        return file

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line; once this returns, it outlives the process. A file that was closed is opened again."""
        if self._file.closed:
            self._file = self._opened()
        try:
            line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
            line = json.dumps(record, allow_nan=False).encode()
        self._file.write(line + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything to the disk."""
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _read(path: Path, mark: str) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a file, and how many bytes they take."""
    *lines, rest = path.read_bytes().split(b"\n")
    found, whole = [], 0
    for number, line in enumerate(lines, 1):
        # A disk that lost power may keep a block of zeros where the last lines were.
        if not line.strip(b"\0") and line and number == len(lines):
            break
        found.append(_record(line, mark, f"{path}:{number}"))
        whole += len(line) + 1
    # Behind the last line end there is nothing, a torn line, or the end of a file that is not ours.
    if rest.endswith(b"}"):
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):  # torn inside of the line
            json.loads(rest)
            _record(rest, mark, f"{path}:{len(lines) + 1}")
    elif rest.strip(b"\0") and not rest.startswith(b"{"):
        raise _foreign(f"{path}:{len(lines) + 1}", "expected an object")
    return found, whole


def _record(line: bytes, mark: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _foreign(where, str(error)) from None
    if not isinstance(record, dict) or mark not in record:
        raise _foreign(where, f"no {mark!r} in it" if isinstance(record, dict) else "expected an object")
    return record


def _foreign(where: str, why: str) -> ValueError:
    return ValueError(f"{where}: not a line that was written here ({why}); name another file")
