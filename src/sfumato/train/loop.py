"""The training loop: from a recipe to a bundle, through interruptions."""

import contextlib
import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from sfumato.config import Recipe
from sfumato.data.cache import Corpus, Progress
from sfumato.data.sources import content_key
from sfumato.model.bundle import Bundle
from sfumato.train import checkpoint
from sfumato.train.denoising import Prepare, Prepared, denoising
from sfumato.train.journal import Journal
from sfumato.train.keeper import Keeper
from sfumato.train.memory import keep_buffers
from sfumato.train.retry import Say, retried
from sfumato.train.rollback import look_after
from sfumato.train.run import Metrics, num_steps, open_run, open_tokenizer
from sfumato.train.state import averaged_network, kept_adapter
from sfumato.train.watchdog import LONGER, Watchdog

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
        watcher: told of every step.
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
    recipe = open_run(recipe, out)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    keep_buffers()
    run = prepare(recipe, open_tokenizer(recipe, out), steps, reading)
    state, best = run.state, out / "best"
    found = checkpoint.newest(out / "checkpoints", say)
    if found:
        with checkpoint.damage_told(found):
            state.restore(checkpoint.load_tensors(found), checkpoint.read_state(found))
    if watcher:
        watcher.started(state.step, steps, sum(p.numel() for p in state.learned.values()), recipe, run.corpora)
    keeper, config = Keeper(out / "checkpoints", recipe.train.keep, say), recipe.train
    with (
        contextlib.closing(Metrics(out / "metrics.jsonl", state.step, say)) as metrics,
        contextlib.closing(Journal(out / "samples.txt", say)) as samples,
        Watchdog(out, config.hang_after) as watchdog,
        _interruptible() as interrupt,
    ):
        while not (done := _done(recipe, run, steps)) and not interrupt.signal:
            record = run.step()
            last = state.step == steps
            saves, samples_now = (
                last or _due(state.step, config.checkpoint_every),
                _due(state.step, config.sample_every),
            )
            evaluates = last or _due(state.step, config.evaluate_every)
            busy = saves or samples_now or evaluates
            watchdog.fed(LONGER if busy else 1)
            look_after(state, config, out / "checkpoints", say, closely=saves or evaluates)
            if evaluate and evaluates:
                figures = evaluate(_averaged(recipe, run), run.corpora)
                record |= figures
                if config.patience and JUDGE in figures and _better(run, figures[JUDGE]):
                    retried(partial(_averaged(recipe, run).save, best), say)
            if sample and samples_now:
                samples.add(f"--- step {state.step}\n{sample(_averaged(recipe, run))}\n")
            metrics.write(**record, rollbacks=state.spikes.rollbacks)
            if (over := _done(recipe, run, steps)) or saves:
                state.spikes.saving(state.step, config.checkpoint_every, config.keep)
                keeper.save(state, must=over)
            if watcher:
                watcher.stepped(record)
            watchdog.fed(LONGER if busy else 1)  # for others, who wait for what only one process does
        if interrupt.signal and not done:
            keeper.save(state, must=True)
        metrics.finish()
        samples.finish()
    if not done:
        return None, interrupt.signal
    bundle = Bundle.load(best) if best.exists() and state.stale else _averaged(recipe, run)
    if card:
        bundle = dataclasses.replace(bundle, card=card(bundle, run.corpora))
    retried(lambda: bundle.save(out / "model", torch.bfloat16), say)
    return out / "model", 0


def _averaged(recipe: Recipe, run: Prepared) -> Bundle:
    """The model as it is now, with averaged weights."""
    state = run.state
    made = {"recipe": recipe.name, "steps": state.step, "tokens": state.tokens, "seed": recipe.seed}
    made |= {"torch": torch.__version__, "data": [content_key(source) for source in recipe.data.sources]}
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


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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
