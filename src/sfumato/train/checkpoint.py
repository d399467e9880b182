"""Checkpoints: everything a run needs to continue bit for bit, written so that a kill at any moment loses none.

RUN/checkpoints/step-00000200/tensors.safetensors     weights, their average, optimiser moments
                              state.json              counters, place in the data, loss statistics
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be read."""


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int) -> Path:
    """Write `step-...` under `folder` and delete all but the newest `keep`.

    The files are flushed to disk under a temporary name first, so a directory called `step-...` is always complete.

    Raises:
        OSError: the disk is full or not writable; earlier checkpoints are intact and the partial one is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".writing-*"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    final, scratch = folder / f"step-{step:08d}", folder / f".writing-{step:08d}"
    try:
        scratch.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            scratch / "tensors.safetensors",
        )
        (scratch / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        for file in scratch.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if not final.exists():  # an interrupt right after a checkpoint; it holds the same already
            os.replace(scratch, final)
    except (SafetensorError, OSError) as error:  # neither says which file
        raise OSError(f"{scratch}: cannot write the checkpoint ({error}); earlier checkpoints are intact") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint's tensors and state, or None when there is none.

    Raises:
        CheckpointError: the newest one is damaged; says how to continue from the one before.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        return None
    with damage_told(folder):
        return load_file(found[-1] / "tensors.safetensors"), json.loads((found[-1] / "state.json").read_text())


@contextlib.contextmanager
def damage_told(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with the newest checkpoint into one line that says how to go on."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, ValueError) and not isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
            raise  # it has said it already, such as data that changed
        found = sorted(folder.glob("step-*"))
        advice = "delete it to continue from the one before" if len(found) > 1 else "delete it to start again"
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{found[-1]}: damaged checkpoint ({why}); {advice}") from None
