"""Checkpoints: everything a run needs to continue bit for bit, written so that a kill at any moment loses none.

RUN/checkpoints/step-00000200/*.safetensors    weights, their average, optimiser moments
                              state.json       counters, place in the data, loss statistics
                              hashes.json      SHA-256 of the other files, so that damage is seen when they are read
                damaged-00000150/              one that did not agree with its hashes, set aside
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.model.weights import unwritten
from sfumato.train.retry import Say, retried, saying

_TENSORS, _STATE, _HASHES = "tensors.safetensors", "state.json", "hashes.json"
_SCRATCH = ".writing-"  # how the names of folders begin that are no checkpoints, not yet or no more
_THREADS = 8  # files that are hashed or flushed at a time


class CheckpointError(ValueError):
    """A checkpoint that cannot be read."""


@contextlib.contextmanager
def writing(folder: Path, step: int) -> Iterator[Path]:
    """A new folder whose files become the checkpoint `step-...` under `folder` when the block ends.

    Until then it has a temporary name, and its files are hashed and flushed to disk first: what is called `step-...` is
    always complete. A checkpoint of that step that exists already stays as it is.

    Raises:
        OSError: the disk is full or not writable; earlier checkpoints are intact and the partial one is removed. Its
            `errno` is that of the cause.
    """
    final, scratch = path_of(folder, step), folder / f"{_SCRATCH}{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_SCRATCH}*"):  # of a run that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        scratch.mkdir()
        yield scratch
        _seal(scratch)
        if not final.exists():  # an interrupt right after a checkpoint; it holds the same already
            os.replace(scratch, final)
            _flush_names(folder)
    except (SafetensorError, OSError) as error:  # neither says which file
        message = f"{scratch}: cannot write the checkpoint ({error}); earlier checkpoints are intact"
        raise unwritten(message, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(scratch: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """The files of a checkpoint that one process writes alone, into the folder that `writing` gives."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, scratch / _TENSORS)
    write_state(scratch, state)


def write_state(scratch: Path, state: dict[str, Any]) -> None:
    """What `read_state` reads."""
    (scratch / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


def read_state(path: Path) -> dict[str, Any]:
    """Counters, place in the data and whatever else is no tensor."""
    return json.loads((path / _STATE).read_text(encoding="utf-8"))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What `write` wrote."""
    return load_file(path / _TENSORS)


def written_alone(path: Path) -> bool:
    """Whether one process wrote all tensors."""
    return (path / _TENSORS).exists()


def prune(folder: Path, keep: int, also: Collection[int] = ()) -> None:
    """Delete all checkpoints but the newest `keep`, and those of the steps `also`."""
    for old in checkpoints(folder)[:-keep]:
        if int(old.name.removeprefix("step-")) not in also:
            discard(old)


def discard(path: Path) -> None:
    """Delete a checkpoint; what a kill or the disk leaves of it is no checkpoint, and goes with the next one."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path.replace(path.with_name(f"{_SCRATCH}{path.name}")), ignore_errors=True)


def path_of(folder: Path, step: int) -> Path:
    """The checkpoint of a step, whether there is one or not."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Those under `folder`, oldest first; nothing is said of whether they are whole."""
    return sorted(folder.glob("step-*"))


def newest(folder: Path, say: Say) -> Path | None:
    """The newest checkpoint that is whole, or None when there is none at all; newer ones are set aside.

    Args:
        folder: where they are.
        say: told of each that is damaged.

    Raises:
        CheckpointError: there are some, and none is whole; a run does not begin anew by itself.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(checkpoints(folder)):
        why = checked(path, say)
        if why is None:
            for bad, reason in damaged:
                say(f"{bad}: damaged checkpoint ({reason}); set aside as {_set_aside(bad).name}, using {path.name}")
            return path
        damaged.append((path, why))
    if damaged:
        path, why = damaged[0]
        before = "no earlier one is whole" if len(damaged) > 1 else "there is no other"
        raise CheckpointError(f"{path}: damaged checkpoint ({why}), and {before}; delete {folder} to start again")
    return None


def checked(path: Path, say: Say) -> str | None:
    """As `fault`, where the disk may fail for a while; what can never be read is a fault too."""
    try:
        return retried(lambda: fault(path), saying(say))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return _first_line(error)


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None: it is whole.

    One without hashes, as older versions wrote them, is whole if its files can be read.

    Raises:
        OSError: the disk fails, which says nothing of the checkpoint.
    """
    try:
        read_state(path)
        if not (path / _HASHES).exists():
            with safe_open(path / _TENSORS, "pt"):  # compares the file's length with its header
                return None
        wanted = json.loads((path / _HASHES).read_text(encoding="utf-8"))["sha256"]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(digest, [path / name for name in wanted]))
        changed = [name for name, now in zip(wanted, found, strict=True) if now != wanted[name]]
        return f"{changed[0]} is not what was written" if changed else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        return _first_line(error)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _first_line(error)


@contextlib.contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a run restores a checkpoint into one line that says how to go on."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, ValueError) and not isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
            raise  # it has said it already, such as data that changed
        others = len(checkpoints(path.parent)) > 1
        advice = "delete it to continue from the one before" if others else "delete it to start again"
        raise CheckpointError(f"{path}: damaged checkpoint ({_first_line(error)}); {advice}") from None


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal as `sha256sum` prints it."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _seal(scratch: Path) -> None:
    """Write down the hash of each file, while the disk takes them in."""
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool:
        flushed = [pool.submit(_flush, file) for file in files]
        hashes = dict(zip((str(file.relative_to(scratch)) for file in files), pool.map(digest, files), strict=True))
    for done in flushed:
        done.result()
    (scratch / _HASHES).write_text(json.dumps({"sha256": hashes}, indent=1), encoding="utf-8")
    _flush(scratch / _HASHES)
    _flush_names(scratch)


def _flush(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())


def _flush_names(folder: Path) -> None:
    """Make new names in a folder outlive a power cut, where the system can."""
    with contextlib.suppress(OSError):  # not on Windows, nor on every network file system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name.replace("step-", "damaged-"))
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    return aside


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
