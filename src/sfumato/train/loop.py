"""The training loop: from a recipe to a bundle, through interruptions."""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sfumato.config import Recipe
from sfumato.data.cache import Corpus, Progress
from sfumato.data.sources import content_keys
from sfumato.model.bundle import Bundle
from sfumato.train import checkpoint
from sfumato.train.denoising import Prepare, Prepared, denoising
from sfumato.train.memory import keep_buffers
from sfumato.train.run import Metrics, num_steps, open_run, open_tokenizer
from sfumato.train.state import averaged_network, kept_adapter

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

    Returns:
        The bundle's folder and 0, or None and the signal's number when SIGINT or SIGTERM stopped the run.

    Raises:
        ValueError: settings, data, run folder or checkpoint that cannot be used; one line.
        OSError: disk full or not writable; earlier checkpoints are intact.
    """
    out = Path(out)
    steps = num_steps(recipe)
    recipe = open_run(recipe, out)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    keep_buffers()
    run = prepare(recipe, open_tokenizer(recipe, out), steps, reading)
    state, best = run.state, out / "best"
    found = checkpoint.latest(out / "checkpoints")
    if found:
        with checkpoint.damage_told(out / "checkpoints"):
            state.restore(*found)
    if watcher:
        watcher.started(state.step, steps, sum(p.numel() for p in state.learned.values()), recipe, run.corpora)
    with contextlib.closing(Metrics(out / "metrics.jsonl", state.step)) as metrics, _interruptible() as interrupt:
        while not (done := _done(recipe, run, steps)) and not interrupt.signal:
            record = run.step()
            last = state.step == steps
            if evaluate and (last or _due(state.step, recipe.train.evaluate_every)):
                figures = evaluate(_averaged(recipe, run), run.corpora)
                record |= figures
                if recipe.train.patience and JUDGE in figures and _better(run, figures[JUDGE]):
                    _averaged(recipe, run).save(best)
            if sample and _due(state.step, recipe.train.sample_every):
                with open(out / "samples.txt", "a", encoding="utf-8") as file:
                    file.write(f"--- step {state.step}\n{sample(_averaged(recipe, run))}\n")
            metrics.write(**record)
            if _done(recipe, run, steps) or _due(state.step, recipe.train.checkpoint_every):
                state.save(out / "checkpoints", recipe.train.keep)
            if watcher:
                watcher.stepped(record)
        if interrupt.signal and not done:
            state.save(out / "checkpoints", recipe.train.keep)
    if not done:
        return None, interrupt.signal
    bundle = Bundle.load(best) if best.exists() and state.stale else _averaged(recipe, run)
    if card:
        bundle = dataclasses.replace(bundle, card=card(bundle, run.corpora))
    bundle.save(out / "model", torch.bfloat16)
    return out / "model", 0


def _averaged(recipe: Recipe, run: Prepared) -> Bundle:
    """The model as it is now, with averaged weights."""
    state = run.state
    made = {"recipe": recipe.name, "steps": state.step, "tokens": state.tokens, "seed": recipe.seed}
    made |= {"torch": torch.__version__, "data": content_keys(recipe.data)}
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
