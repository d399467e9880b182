"""The folders that are written to: whether they can be, how much fits, how fast."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sfumato.doctor.finding import GIB, MIB, Finding, judged, rate, size

_PIECE = 64 * MIB  # written and read back
_ENOUGH, _LITTLE = 5 * GIB, GIB // 4
_SLOW = 50e6  # bytes a second; a checkpoint of a model with 100 million weights then takes half a minute


def folder(what: str, path: str) -> Iterator[Finding]:
    """One folder; where it does not exist yet, the nearest one above it that does. Nothing is left behind."""
    place = existing(Path(path).expanduser().absolute())
    free = shutil.disk_usage(place).free
    where = f"{path}{'' if place == Path(path).expanduser().absolute() else ' (not there yet)'}"
    if not place.is_dir():
        yield Finding(what, f"{place} is a file", "fail", "name a folder")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".sfumato-doctor-"):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "delete what is not needed" if full else "name another folder, or change who may write to it"
        yield Finding(what, f"{place}: {why}", "fail", advice)
        return
    said = f"{where}: {size(free)} free"
    if free < _LITTLE + _PIECE:
        yield Finding(what, said, "fail", f"the disk has {size(free)} free: delete what is not needed", {"free": free})
        return
    write, read = bandwidth(place)
    said += f", writes {rate(write)} (fsync), reads {rate(read)}" if read else f", writes {rate(write)} (fsync)"
    if free < _ENOUGH:
        advice = f"the disk has {size(free)} free: checkpoints of larger models will not fit (train.keep says how many)"
    else:
        advice = "checkpoints will take long: use a local disk, or a larger train.checkpoint_every"
    yield judged(free >= _ENOUGH and write >= _SLOW, what, said, advice, free=free, write=write, read=read)


def existing(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def bandwidth(place: Path, piece: int = _PIECE) -> tuple[float, float | None]:
    """Bytes a second written to the disk itself, and read from it; None where the page cache cannot be passed by."""
    block = os.urandom(MIB)
    with tempfile.NamedTemporaryFile(dir=place, prefix=".sfumato-doctor-", buffering=0) as file:
        begin = time.perf_counter()
        for _ in range(piece // MIB):
            file.write(block)
        os.fsync(file.fileno())
        write = piece / (time.perf_counter() - begin)
        if not hasattr(os, "posix_fadvise"):
            return write, None
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begin = time.perf_counter()
        while file.read(MIB):
            pass
        return write, piece / (time.perf_counter() - begin)
