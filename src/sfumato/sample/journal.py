"""A file of JSON lines that is only ever appended to, so that whoever writes it may be killed at any time."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """What is already there, and a way to add to it.

    Attributes:
        path: the file.
        there: the lines that it held when it was opened.
    """

    def __init__(self, path: str | Path):
        """Open a file, or begin one; a last line that was torn off while it was written is taken away.

        Raises:
            ValueError: a line before the last is no JSON object.
            OSError: the file cannot be read or written.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.there, whole = _read(self.path)
        self._file = self.path.open("ab")
        if self.path.stat().st_size > whole:
            self._file.truncate(whole)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line; once this returns, it outlives the process. A file that was closed is opened again."""
        if self._file.closed:
            self._file = self.path.open("ab")
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


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a file, and how many bytes they take."""
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")
    found, whole = [], 0
    for number, line in enumerate(lines[:-1], 1):  # behind the last line end there is nothing, or a torn line
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("expected an object")
        except ValueError as error:
            # A disk that lost power may keep a block of zeros where the last lines were.
            if not line.strip(b"\0") and number == len(lines) - 1:
                break
            raise ValueError(
                f"{path}:{number}: not a line that was written here ({error}); name another file"
            ) from None
        found.append(record)
        whole += len(line) + 1
    return found, whole
