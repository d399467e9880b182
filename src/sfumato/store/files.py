"""Files that survive a crash at any moment, and that two processes do not write at once."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

WAIT = 10.0  # seconds, for whoever holds a lock


class Locked(OSError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, wait: float = WAIT) -> Iterator[None]:
    """Hold a lock for as long as the block runs; the system lets go of it when the process ends, however it ends.

    Args:
        path: a file that is made for it and stays.
        wait: seconds until it is given up.

    Raises:
        Locked: somebody else holds it.
    """
    end = time.monotonic() + wait
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Locked(f"{path.parent}: another process is at work there; try again later") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def write_file(path: Path, text: str) -> None:
    """Write a small file: after a crash it holds all of the text, or what it held before."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(scratch, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append a line that is on disk when this returns. What a crash left of an earlier line is taken away.

    Raises:
        OSError: it could not be written; the lines before it are intact.
    """
    with open(path, "a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        try:
            if whole < size:
                file.truncate(whole)
            data = line.encode() + b"\n"
            if file.write(data) != len(data):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(whole)
            raise OSError(f"{path}: cannot write ({error}); what was there is intact") from None
    sync(path.parent)


def read_lines(path: Path) -> list[str]:
    """The complete lines; of no file, none."""
    try:
        return path.read_bytes().decode("utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
