"""The training loop: from a recipe to a bundle, through interruptions."""

import contextlib
import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from sfumato.config import Recipe, TrainConfig
from sfumato.data.cache import Corpus, Progress
from sfumato.data.sources import content_keys
from sfumato.model.bundle import Bundle
from sfumato.model.device import resolve_device
from sfumato.train import checkpoint
from sfumato.train.denoising import Prepare, Prepared, denoising
from sfumato.train.journal import Journal
from sfumato.train.keeper import Keeper
from sfumato.train.memory import keep_buffers
from sfumato.train.parallel import joined
from sfumato.train.retry import Say, retried, saying
from sfumato.train.rollback import look_after
from sfumato.train.run import Metrics, check_shared, num_steps, open_run, open_tokenizer
from sfumato.train.state import averaged_network, kept_adapter
from sfumato.train.watchdog import LONGER, Watchdog

T = TypeVar("T")
JUDGE = "held_out_nats_per_token"  # the figure of an evaluation that early stopping goes by; the less the better


class Watcher(Protocol):
    """What the caller wants to know while training runs."""

    def started(self, step: int, steps: int, parameters: int, recipe: Recipe, corpora: list[Corpus]) -> None:
        """Called once: the step that training starts or continues at, how many weights learn, the resolved recipe."""
        ...

    def stepped(self, record: dict[str, Any]) -> None:
        """Called after each step with what metrics.jsonl gets."""
        ...


@dataclass
class Interrupt:
    """Set by SIGINT or SIGTERM; the loop finishes its step, saves and leaves."""

    signal: int = 0


class Due(NamedTuple):
    """What there is to do after a step."""

    evaluation: bool
    sample: bool
    checkpoint: bool


def train(
    recipe: Recipe,
    out: Path,
    *,
    prepare: Prepare = denoising,
    watcher: Watcher | None = None,
    evaluate: Callable[[Bundle, list[Corpus]], dict[str, float]] | None = None,
    sample: Callable[[Bundle], str] | None = None,
    card: Callable[[Bundle, list[Corpus]], str] | None = None,
    reading: Progress | None = None,
    say: Say | None = None,
) -> tuple[Path | None, int]:
    """Train a recipe, or continue an interrupted run, and write its bundle to `out/model`.

    Args:
        recipe: what to train.
        out: the run's folder; with earlier checkpoints in it the run continues, bit for bit on the CPU.
        prepare: makes the network, the data and the step: what is learned, and from what.
        watcher: told of every step; of processes that train together, that of the first.
        evaluate: called with the averaged model every `train.evaluate_every` steps and at the end.
        sample: called every `train.sample_every` steps; what it returns goes to `out/samples.txt`.
        card: writes the model card of the finished bundle.
        reading: told how much of the data has been tokenised.
        say: told in a line what went wrong without ending the run; standard error where nothing is given.

    Returns:
        The bundle's folder and 0, or None and the signal's number when SIGINT or SIGTERM stopped the run.

    Raises:
        ValueError: settings, data, run folder or checkpoint that cannot be used; one line.
        OSError: disk full or not writable; earlier checkpoints are intact.
    """
    out, say = Path(out), say or _to_standard_error
    steps = num_steps(recipe)
    with joined(recipe.train, resolve_device(recipe.train.device).type) as processes:
        watcher = watcher if processes.first else None
        say = say if processes.first else _to_standard_error  # of the others, those that have trouble of their own
        recipe = processes.agreed(lambda: open_run(recipe, out))
        check_shared(out, processes)
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        keep_buffers()
        tokenizer = processes.in_turn(lambda: open_tokenizer(recipe, out))
        run = prepare(recipe, tokenizer, steps, reading)
        state = run.state
        found = processes.agreed(lambda: checkpoint.newest(out / "checkpoints", say))
        if found:
            with checkpoint.damage_told(found):
                state.restore(found)
        if watcher:
            watcher.started(state.step, steps, sum(p.numel() for p in state.learned.values()), recipe, run.corpora)
        stopped = _steps(recipe, run, out, steps, watcher=watcher, evaluate=evaluate, sample=sample, say=say)
        if stopped:
            return None, stopped
        _finish(recipe, run, out, card, say)
        return out / "model", 0


def _steps(
    recipe: Recipe,
    run: Prepared,
    out: Path,
    steps: int,
    *,
    watcher: Watcher | None,
    evaluate: Callable[[Bundle, list[Corpus]], dict[str, float]] | None,
    sample: Callable[[Bundle], str] | None,
    say: Say,
) -> int:
    """All steps that are left; the number of the signal that stopped them, or 0."""
    state, processes, config, checkpoints = run.state, run.state.processes, recipe.train, out / "checkpoints"
    keeper, stopped = Keeper(state, checkpoints, config.keep, say), 0
    with (
        contextlib.closing(Metrics(out / "metrics.jsonl", state.step, say, silent=not processes.first)) as metrics,
        contextlib.closing(Journal(out / "samples.txt", say)) as samples,
        Watchdog(out, config.hang_after, processes.rank) as watchdog,
        _interruptible() as told,
        contextlib.closing(state),
    ):
        due = Due(True, True, True)  # of the first step: it may compile
        while not _done(recipe, run, steps) and not (stopped := processes.most(told.signal)):
            before, due = due, _due(state.step + 1, steps, config)
            # A step after one with more to do as well: in it the others wait for what the first one did alone.
            watchdog.fed(LONGER if any(before) or any(due) else 1)
            record = run.step()
            if state.spikes.bad >= config.spikes:
                watchdog.fed(LONGER)  # a checkpoint is read to go back to
            look_after(state, config, checkpoints, say, closely=due.evaluation or due.checkpoint)
            record["rollbacks"] = state.spikes.rollbacks
            if evaluate and due.evaluation:
                record |= _evaluated(recipe, run, out, evaluate, say)
            if sample and due.sample:
                text = _made(recipe, run, sample)
                if processes.first:
                    samples.add(f"--- step {state.step}\n{text}\n")
            metrics.write(**record)
            if (over := _done(recipe, run, steps)) or due.checkpoint:
                state.spikes.saving(state.step, config.checkpoint_every, config.keep)
                keeper.save(must=over)
            if watcher:
                watcher.stepped(record)
        if stopped:
            keeper.save(must=True)
        metrics.finish()
        samples.finish()
    return stopped


def _made(recipe: Recipe, run: Prepared, make: Callable[[Bundle], T]) -> T:
    """What is made of the model as it is now, by the first process for all."""
    bundle = _averaged(recipe, run)
    return run.state.processes.agreed(lambda: make(bundle))


def _evaluated(
    recipe: Recipe, run: Prepared, out: Path, evaluate: Callable[[Bundle, list[Corpus]], dict[str, float]], say: Say
) -> dict[str, float]:
    """The figures of an evaluation; with `train.patience` the best model so far is kept."""
    figures = _made(recipe, run, lambda bundle: evaluate(bundle, run.corpora))
    if recipe.train.patience and JUDGE in figures and _better(run, figures[JUDGE]):
        _made(recipe, run, lambda bundle: retried(lambda: bundle.save(out / "best"), saying(say)))
    return figures


def _finish(
    recipe: Recipe, run: Prepared, out: Path, card: Callable[[Bundle, list[Corpus]], str] | None, say: Say
) -> None:
    """Write the bundle."""

    def write(bundle: Bundle) -> None:
        if (out / "best").exists() and run.state.stale:
            bundle = Bundle.load(out / "best")
        if card:
            bundle = dataclasses.replace(bundle, card=card(bundle, run.corpora))
        retried(lambda: bundle.save(out / "model", torch.bfloat16), saying(say))

    _made(recipe, run, write)


def _averaged(recipe: Recipe, run: Prepared) -> Bundle:
    """The model as it is now, with averaged weights; in all processes but the first it has none."""
    state = run.state
    made = {"recipe": recipe.name, "steps": state.step, "tokens": state.tokens, "seed": recipe.seed}
    data = [corpus.content for corpus in run.corpora] or content_keys(recipe.data)
    made |= {"torch": torch.__version__, "data": data}
    config = dataclasses.replace(run.config, made=made)
    adapter = kept_adapter(recipe, state) if recipe.lora.rank and not recipe.lora.merge else None
    return Bundle(config, averaged_network(state), run.tokenizer.to_json(), adapter=adapter)


def _done(recipe: Recipe, run: Prepared, steps: int) -> bool:
    """Whether all steps are made, or so many evaluations went by without a better one that more make no sense."""
    patience = recipe.train.patience
    return run.state.step >= steps or bool(patience and run.state.stale >= patience)


def _better(run: Prepared, figure: float) -> bool:
    """Note an evaluation; whether it is the best so far."""
    state = run.state
    better = math.isfinite(figure) and (state.best == 0 or figure < state.best)
    state.best, state.stale = (figure, 0) if better else (state.best, state.stale + 1)
    return better


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr)


def _due(step: int, steps: int, config: TrainConfig) -> Due:
    evaluation, sample, checkpoint = (
        every > 0 and step % every == 0
        for every in (config.evaluate_every, config.sample_every, config.checkpoint_every)
    )
    return Due(evaluation or step == steps, sample, checkpoint or step == steps)


@contextlib.contextmanager
def _interruptible() -> Iterator[Interrupt]:
    """Turn SIGINT and SIGTERM into a flag for as long as the loop runs."""
    interrupt = Interrupt()

    def note(number: int, frame: Any) -> None:
        interrupt.signal = number

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are somebody else's
        old = {}
    try:
        yield interrupt
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
