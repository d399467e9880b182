"""The training loop: from a recipe to a bundle, through interruptions."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sfumato.config import Recipe
from sfumato.data.batches import Stream
from sfumato.data.cache import Corpus, Progress, open_corpora
from sfumato.data.sources import content_key
from sfumato.data.turns import Turns
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens, find_bundle
from sfumato.model.transformer import Transformer
from sfumato.process import Growing, build_process
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer
from sfumato.train import checkpoint
from sfumato.train.memory import keep_buffers
from sfumato.train.optimiser import build_optimisers
from sfumato.train.run import Metrics, device_of, num_steps, open_run, open_tokenizer
from sfumato.train.state import State, averaged_network
from sfumato.train.step import Step

# What a new bundle writes with; ancestral where nothing is said.
_SAMPLERS = {"masked": "threshold", "autoregressive": "left_to_right", "gaussian": "ode", "insertion": "tau_leaping"}


class Watcher(Protocol):
    """What the caller wants to know while training runs."""

    def started(self, step: int, steps: int, parameters: int, recipe: Recipe, corpora: list[Corpus]) -> None:
        """Called once, with the step that training starts or continues at and the resolved recipe."""
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
    watcher: Watcher | None = None,
    evaluate: Callable[[Bundle, list[Corpus]], dict[str, float]] | None = None,
    sample: Callable[[Bundle], str] | None = None,
    card: Callable[[Bundle, list[Corpus]], str] | None = None,
    reading: Progress | None = None,
    chat: ChatTemplate | None = None,
) -> tuple[Path | None, int]:
    """Train a recipe, or continue an interrupted run, and write its bundle to `out/model`.

    Args:
        recipe: what to train.
        out: the run's folder; with earlier checkpoints in it the run continues, bit for bit on the CPU.
        watcher: told of every step.
        evaluate: called with the averaged model every `train.evaluate_every` steps and at the end.
        sample: called every `train.sample_every` steps; what it returns goes to `out/samples.txt`.
        card: writes the model card of the finished bundle.
        reading: told how much of the data has been tokenised.
        chat: the data are conversations, of which answers alone are learned; the bundle keeps this template.

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
    tokenizer = open_tokenizer(recipe, out)
    config = _described(recipe, tokenizer, chat)
    corpora = open_corpora(recipe.data, tokenizer, reading, turns(config) if chat else None)
    state = _begin(recipe, config, tokenizer, corpora)
    found = checkpoint.latest(out / "checkpoints")
    if found:
        with checkpoint.damage_told(out / "checkpoints"):
            state.restore(*found)
    if watcher:
        watcher.started(state.step, steps, state.denoiser.num_parameters(), recipe, corpora)
    step_once = Step(recipe, config, state, steps)

    def averaged() -> Bundle:
        made = {"recipe": recipe.name, "steps": state.step, "tokens": state.tokens, "seed": recipe.seed}
        made |= {"torch": torch.__version__, "data": [content_key(source) for source in recipe.data.sources]}
        return Bundle(dataclasses.replace(config, made=made), averaged_network(state), tokenizer.to_json())

    with contextlib.closing(Metrics(out / "metrics.jsonl", state.step)) as metrics, _interruptible() as interrupt:
        while state.step < steps and not interrupt.signal:
            record = step_once()
            done = state.step == steps
            if evaluate and (done or _due(state.step, recipe.train.evaluate_every)):
                record |= evaluate(averaged(), corpora)
            if sample and _due(state.step, recipe.train.sample_every):
                with open(out / "samples.txt", "a", encoding="utf-8") as file:
                    file.write(f"--- step {state.step}\n{sample(averaged())}\n")
            metrics.write(**record)
            if done or _due(state.step, recipe.train.checkpoint_every):
                state.save(out / "checkpoints", recipe.train.keep)
            if watcher:
                watcher.stepped(record)
        if interrupt.signal:
            state.save(out / "checkpoints", recipe.train.keep)
    if state.step < steps:
        return None, interrupt.signal
    bundle = averaged()
    if card:
        bundle = dataclasses.replace(bundle, card=card(bundle, corpora))
    bundle.save(out / "model", torch.bfloat16)
    return out / "model", 0


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _described(recipe: Recipe, tokenizer: Tokenizer, chat: ChatTemplate | None) -> BundleConfig:
    """What the bundle will say about the model."""
    if recipe.model.vocab_size not in (0, tokenizer.vocab_size):
        raise ValueError(
            f"model.vocab_size: got {recipe.model.vocab_size}, the tokenizer has {tokenizer.vocab_size}; leave it at 0"
        )
    tokens = SpecialTokens(tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.start_id)
    process = build_process(
        recipe.process, vocab_size=tokenizer.vocab_size, mask_id=tokens.mask, never_written=tokens.never_written
    )
    grows = isinstance(process, Growing)
    if grows and recipe.model.block:
        raise ValueError(
            f"model.block: got {recipe.model.block}, but {process.name} has no blocks: its rows grow everywhere; "
            "leave it at 0"
        )
    model = dataclasses.replace(recipe.model, vocab_size=tokenizer.vocab_size, gap_head=grows)
    layout = "causal" if process.shift else "block" if model.block else "full"
    sampler: dict[str, Any] = {"sampler": _SAMPLERS.get(process.name, "ancestral"), "temperature": 0.7}
    if model.smallest_block:  # it may choose: large enough to be parallel, and for answers small enough to end late
        sampler["block"] = max(model.smallest_block, min(8 if chat else 16, model.block))
    if chat and layout == "full" and process.name == "masked":
        # Sure of the end long before the answer, a canvas that is one block would be closed from its far side.
        sampler["block"] = min(32, model.context)
    return BundleConfig(
        model=model,
        process=recipe.process,
        layout=layout,
        shift=process.shift,
        tokens=tokens,
        tokenizer_sha256=tokenizer.fingerprint,
        sampler=sampler,
        chat=chat.to_dict() if chat else None,
    )


def turns(config: BundleConfig) -> Turns:
    """How a model's conversations become rows."""
    assert config.chat is not None
    template = ChatTemplate.from_dict(config.chat)
    block = config.sampler.get("block") or config.model.block if config.layout == "block" else 0
    return Turns(template, config.model.context, block, fill=not (config.shift or config.model.gap_head))


def _begin(recipe: Recipe, config: BundleConfig, tokenizer: Tokenizer, corpora: list[Corpus]) -> State:
    """The state before the first step."""
    denoiser = Transformer(
        config.model,
        never_written=config.tokens.never_written,
        gradient_checkpointing=recipe.train.checkpointing,
        dropout=recipe.train.dropout,
    )
    denoiser.initialise(recipe.seed)
    if recipe.init:
        _take_weights(denoiser, recipe.init)
    denoiser.to(device_of(recipe)[0])
    weights = [source.weight for source in recipe.data.sources]
    stream = Stream(corpora, weights, context=recipe.model.context, tokenizer=tokenizer, seed=recipe.seed)
    average = {name: p.detach().clone() for name, p in denoiser.named_parameters()} if recipe.train.ema else {}
    return State(denoiser, build_optimisers(denoiser, recipe.train), average, stream)


def _take_weights(denoiser: Transformer, init: str) -> None:
    """Start from a bundle's weights; layout, process and context may differ, sizes not.

    A network with fewer layers takes evenly chosen ones, the first and the last among them.

    Raises:
        ValueError: the first tensor that does not fit.
    """
    bundle = Bundle.load(find_bundle(init))
    expected = denoiser.state_dict()
    state = _thinned(bundle.denoiser.state_dict(), bundle.config.model.layers, denoiser.config.layers)
    for name in sorted(state.keys() | expected.keys()):
        found, wanted = (list(t[name].shape) if name in t else "absent" for t in (state, expected))
        if found != wanted:
            raise ValueError(
                f"init {init}: {name} is {found} there, this recipe's model asks for {wanted}; use its sizes"
            )
    denoiser.load_state_dict(state)


def _thinned(state: dict[str, torch.Tensor], layers: int, wanted: int) -> dict[str, torch.Tensor]:
    """The tensors of as many of the layers, evenly chosen; all of them where no fewer are wanted."""
    if wanted >= layers:
        return state
    chosen = [round(i * (layers - 1) / max(1, wanted - 1)) for i in range(wanted)]
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.")}
    for new, old in enumerate(chosen):
        own = f"blocks.{old}."
        kept |= {f"blocks.{new}.{n.removeprefix(own)}": tensor for n, tensor in state.items() if n.startswith(own)}
    return kept


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
