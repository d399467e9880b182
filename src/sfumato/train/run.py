"""A run: the folder of a training, and everything in it that must survive a restart.

RUN/config.toml     the recipe, as resolved at the first start
    tokenizer.json  metrics.jsonl  samples.txt  checkpoints/  model/ (the bundle, at the end)
    hung-rank0.txt  where a process hung, if one did
"""

import dataclasses
import json
import math
import os
import socket
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sfumato.config import Recipe, load_recipe, to_toml
from sfumato.data.sources import DataError, texts
from sfumato.model.bundle import find_bundle, read_description
from sfumato.model.device import resolve_device, resolve_dtype
from sfumato.text.interface import AnyTokenizer
from sfumato.text.tokenizer import Tokenizer, read_tokenizer
from sfumato.train.journal import Journal
from sfumato.train.parallel import ElsewhereError, Processes
from sfumato.train.retry import Say, retried, saying

# Settings that change nothing about the result while all goes well, so a continued run may change them.
FREE = frozenset(
    {
        "checkpoint_every",
        "keep",
        "evaluate_every",
        "sample_every",
        "sample_prompt",
        "threads",
        "peak",
        "checkpointing",
        "shard",
        "data.cache",
        "on_spike",
        "spikes",
        "rollbacks",
        "hang_after",
    }
)
LATE = 60.0  # seconds until a network file system shows on one machine what was written on another


class RunError(ValueError):
    """A run folder that does not fit the recipe."""


def open_run(recipe: Recipe, out: Path) -> Recipe:
    """Create the folder, or check that it belongs to this recipe; returns the recipe with `auto` resolved.

    Device and precision are resolved once and written down, so that a continued run computes the same numbers.

    Raises:
        RunError: the folder was made by another recipe; one line that names the first difference.
    """
    config = out / "config.toml"
    if config.exists():
        made = load_recipe(config)
        changed = first_difference(made, recipe)
        if changed is None:
            return _resolved(recipe, made.train.device, made.train.dtype)
        if any((out / "checkpoints").glob("step-*")):
            name, old, new = changed
            raise RunError(
                f"{config}: this run was started with {name} = {old!r}, now it is {new!r}; "
                "use the same settings to continue it, or another --out to start a new run"
            )
        # Nothing was trained: a first attempt that failed, at its data for example, binds nobody.
        (out / "tokenizer.json").unlink(missing_ok=True)
    device = resolve_device(recipe.train.device)
    dtype = resolve_dtype(recipe.train.dtype, device)
    recipe = _resolved(recipe, device.type, str(dtype).removeprefix("torch."))
    out.mkdir(parents=True, exist_ok=True)
    write_text(config, to_toml(recipe))
    return recipe


def check_shared(out: Path, processes: Processes) -> None:
    """See that the first process's folder is that of all: each writes its part of a checkpoint there.

    Raises:
        RunError: this machine has another one; one line of its first process.
        ElsewhereError: that of another process.
    """
    end, error = time.monotonic() + LATE, None
    while not (seen := (out / "config.toml").exists()) and time.monotonic() < end:
        time.sleep(0.1)
    if not seen:
        error = RunError(
            f"{out}: process {processes.rank} on {socket.gethostname()} does not find there what process 0 wrote; "
            "give an --out on a disk that all machines share, by the same path"
        )
    processes.told(error if processes.local_rank == 0 or seen else ElsewhereError("the first of this machine tells"))


def first_difference(made: Recipe, recipe: Recipe) -> tuple[str, Any, Any] | None:
    """The first setting that changes the result and differs: its name, and what it is in each; `auto` fits anything."""
    wanted = _resolved(recipe, made.train.device, made.train.dtype)
    changed = (found for found in _differences(made, wanted) if found[0].removeprefix("train.") not in FREE)
    return next(changed, None)


def _resolved(recipe: Recipe, device: str, dtype: str) -> Recipe:
    train = recipe.train
    device = device if train.device == "auto" else train.device
    dtype = dtype if train.dtype == "auto" else train.dtype
    return dataclasses.replace(recipe, train=dataclasses.replace(train, device=device, dtype=dtype))


def _differences(a: Any, b: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for known in dataclasses.fields(a):
        old, new = getattr(a, known.name), getattr(b, known.name)
        if dataclasses.is_dataclass(old):
            found += _differences(old, new, f"{prefix}{known.name}.")
        elif old != new:
            found.append((prefix + known.name, old, new))
    return found


def open_tokenizer(recipe: Recipe, out: Path) -> AnyTokenizer:
    """The run's tokenizer: kept in the folder, else that of `init` or `tokenizer.path`, else trained on the data."""
    kept = out / "tokenizer.json"
    if recipe.init:
        config, text = read_description(find_bundle(recipe.init))
        if kept.exists():
            text = kept.read_text(encoding="utf-8")
        tokenizer = read_tokenizer(text, config.tokens, vocab_size=config.model.vocab_size, where=str(kept))
        write_text(kept, text)
        return tokenizer
    if kept.exists():
        return Tokenizer.load(kept)
    if recipe.tokenizer.path:
        tokenizer = Tokenizer.load(recipe.tokenizer.path)
    else:
        found = texts(recipe.data)
        first = next(found, None)
        if first is None:  # else the run would keep a tokenizer that has learned nothing
            paths = ", ".join(source.path for source in recipe.data.sources) or "data.sources"
            raise DataError(f"{paths}: no text in it; give --data.sources PATH (a file, a folder or hf:NAME) with some")
        tokenizer = Tokenizer.train(chain([first], found), recipe.tokenizer.vocab_size)
    tokenizer.save(kept)
    return tokenizer


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    scratch = path.with_name(f".{path.name}.writing")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


class Metrics:
    """metrics.jsonl: one JSON object a line, appended as training goes, cut back to the checkpoint on a restart."""

    def __init__(self, path: Path, step: int, say: Say, *, silent: bool = False):
        """Keep the lines up to `step`.

        Args:
            path: the file.
            step: where training goes on.
            say: told when the disk takes no more.
            silent: somebody else writes them.
        """
        self._journal = None if silent else Journal(path, say)
        if silent:
            return
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # the last line of a killed run
                    continue
                if isinstance(record, dict) and record.get("step", step + 1) <= step:
                    kept.append(line)
        retried(lambda: write_text(path, "".join(line + "\n" for line in kept)), saying(say))

    def write(self, **record: Any) -> None:
        """Append one record, as soon as the disk takes it; what is not finite becomes null."""
        if self._journal:
            record = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
            self._journal.add(json.dumps(record) + "\n")

    def finish(self) -> None:
        """See that all is written. OSError: the disk does not take it."""
        if self._journal:
            self._journal.finish()

    def close(self) -> None:
        """Close the file."""
        if self._journal:
            self._journal.close()


def num_steps(recipe: Recipe) -> int:
    """Optimiser steps of a recipe.

    Raises:
        ValueError: neither `train.steps` nor `train.tokens` is set.
    """
    train = recipe.train
    if train.steps:
        return train.steps
    if not train.tokens:
        raise ValueError("train.steps and train.tokens are both 0: say how long to train, such as --train.tokens 2e6")
    return -(-train.tokens // (train.batch * train.accumulate * recipe.model.context))


def device_of(recipe: Recipe) -> tuple[torch.device, torch.dtype]:
    """Device and autocast precision of a resolved recipe."""
    device = resolve_device(recipe.train.device)
    return device, resolve_dtype(recipe.train.dtype, device)
