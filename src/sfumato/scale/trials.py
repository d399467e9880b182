"""Trials: trainings that are done once each, by however many processes share the folder.

STUDY/tokenizer.json            trained once, for all
      trials/NAME/trial.json    what came out: its presence means done
                  run/          the run, as `sfumato train` leaves it, without its checkpoints
                  .lock         held by the process that trains it
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from sfumato.config import ConfigError, Recipe, from_mapping, load_recipe
from sfumato.data.batches import held_out_rows
from sfumato.data.cache import Corpus
from sfumato.evaluate.likelihood import likelihood
from sfumato.evaluate.machine import this_machine
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.store.files import Locked, locked, write_file
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.loop import Watcher, train
from sfumato.train.run import first_difference, open_tokenizer

ROWS, SAMPLES = 256, 4  # of held-out text, and noisings of each: the same for all trials


@dataclass(frozen=True)
class Outcome:
    """What a trial gave."""

    nats_per_token: float
    """Of held-out text: exact for the autoregressive twin, else the bound."""
    bits_per_byte: float
    stderr: float
    """Standard error of nats_per_token: from the choice of the text, which all trials share, and from the noise."""
    likelihood: str
    """exact or bound."""
    seconds: float
    """Of training and evaluation, those before an interruption left out."""
    epochs: float
    """How often the text to train on was read."""
    skipped: int
    """Steps that were left out, since their loss was a spike."""
    machine: str


@dataclass(frozen=True)
class Trial:
    """A training to do."""

    name: str
    recipe: Recipe
    flops: float


class Told(Protocol):
    """Who is told how the trials go."""

    def begun(self, trial: Trial) -> Watcher | None:
        """A trial begins; returns who is told of its steps."""
        ...

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """A trial is done."""
        ...


def common_tokenizer(recipe: Recipe, folder: Path) -> Tokenizer:
    """The study's tokenizer: made once, from the recipe's data or its `tokenizer.path`."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", wait=600):
        found = open_tokenizer(recipe, folder)
    assert isinstance(found, Tokenizer)  # a ladder has no `init`
    return found


def part_of(trials: Sequence[Trial], number: int, parts: int) -> list[Trial]:
    """The share of one of several processes: about as many FLOPs for each, in the order of the whole."""
    dearest = sorted(range(len(trials)), key=lambda i: -trials[i].flops)
    own: list[list[int]] = [[] for _ in range(parts)]
    load = [0.0] * parts
    for i in dearest:
        least = min(range(parts), key=lambda p: load[p])
        own[least].append(i)
        load[least] += trials[i].flops
    return [trials[i] for i in sorted(own[number - 1])]


def outcome_of(trial: Trial, folder: Path) -> Outcome | None:
    """What a trial gave, None where it is not done.

    Raises:
        ConfigError: the folder holds another study's.
    """
    place = folder / "trials" / trial.name
    path = place / "trial.json"
    try:
        outcome = from_mapping(Outcome, json.loads(path.read_text(encoding="utf-8")), str(path))
        made = load_recipe(place / "run" / "config.toml")
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        raise ConfigError(f"{path}: cannot be read; delete it to train this one again") from None
    tokenizer = dataclasses.replace(trial.recipe.tokenizer, path=made.tokenizer.path)  # a study may move
    changed = first_difference(made, dataclasses.replace(trial.recipe, tokenizer=tokenizer))
    if changed:
        name, old, new = changed
        raise ConfigError(
            f"{place}: made with {name} = {old!r}, now it is {new!r}; use the same settings, or another --out"
        )
    return outcome


def run_trials(trials: Iterable[Trial], folder: Path, told: Told | None = None) -> int:
    """Train what is not done yet and what nobody else trains; a trial that was interrupted continues.

    Args:
        trials: what to do, in this order.
        folder: of the study.
        told: of progress.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        ValueError: a recipe, data or folder that cannot be used; one line.
    """
    for trial in trials:
        if outcome_of(trial, folder):
            continue
        place = folder / "trials" / trial.name
        place.mkdir(parents=True, exist_ok=True)
        try:
            with locked(place / ".lock", wait=0):
                if outcome_of(trial, folder) is None:  # nobody has done it in the meantime
                    stopped = _run(trial, place, told)
                    if stopped:
                        return stopped
        except Locked:
            continue
    return 0


def _run(trial: Trial, place: Path, told: Told | None) -> int:
    start, measured = time.perf_counter(), _Measured()
    watcher = told.begun(trial) if told else None
    model, stopped = train(trial.recipe, place / "run", watcher=watcher, card=measured.card)
    if model is None:
        return stopped
    outcome = dataclasses.replace(
        measured.outcome(), seconds=round(time.perf_counter() - start, 2), skipped=_skipped(place / "run")
    )
    write_file(place / "trial.json", json.dumps(asdict(outcome), indent=1, allow_nan=False) + "\n")
    shutil.rmtree(place / "run" / "checkpoints", ignore_errors=True)
    if told:
        told.ended(trial, outcome)
    return 0


class _Measured:
    """Measures the finished model, before it is rounded to be stored."""

    def __init__(self) -> None:
        self._outcome: Outcome | None = None

    def card(self, bundle: Bundle, corpora: list[Corpus]) -> str:
        """A short card, for which the held-out likelihood is needed: `train` asks for it once, at the end."""
        model, context = LanguageModel(bundle), bundle.config.model.context
        batch, size = held_out_rows(corpora, context, model.tokenizer, at_most=ROWS * (context - 1))
        if not size:
            raise ConfigError("data.held_out: nothing is held out to measure the loss on; set it to 0.05, for example")
        found = likelihood(
            model.denoiser, model.process, model.layout, batch, size, samples=SAMPLES, device=model.device
        )
        if not math.isfinite(found.nats_per_token):
            raise ConfigError(
                f"{bundle.config.made['recipe']}: its loss is not finite; lower train.lr, train.matrix_lr"
            )
        text = sum(int(c.offsets[i + 1] - c.offsets[i]) for c in corpora for i in c.train)
        self._outcome = Outcome(
            nats_per_token=found.nats_per_token,
            bits_per_byte=found.bits_per_byte,
            stderr=found.stderr,
            likelihood=found.kind,
            seconds=0.0,
            epochs=round(bundle.config.made["tokens"] / max(1, text), 3),
            skipped=0,
            machine=this_machine(model.device, model.dtype).line,
        )
        return (
            f"# {bundle.config.made['recipe']}\n\nA trial of a scaling study: {found.nats_per_token:.4f} nats/token.\n"
        )

    def outcome(self) -> Outcome:
        assert self._outcome is not None
        return self._outcome


def _skipped(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["skipped"]) if lines else 0
