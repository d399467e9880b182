"""What a run trains and on what: the network, its data and its step, here for the processes' own losses."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sfumato.config import ConfigError, Recipe
from sfumato.data.batches import Stream
from sfumato.data.cache import Corpus, Progress, open_corpora
from sfumato.data.streaming import ShardedStream
from sfumato.data.turns import Turns
from sfumato.model.adapter import identity
from sfumato.model.bundle import (
    Bundle,
    BundleConfig,
    Network,
    SpecialTokens,
    build_network,
    find_bundle,
    read_description,
    without_weights,
)
from sfumato.model.lora import add_adapters
from sfumato.model.transformer import Transformer
from sfumato.process import Growing, build_process
from sfumato.text.chat import ChatTemplate
from sfumato.text.interface import AnyTokenizer
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.optimiser import build_optimisers
from sfumato.train.parallel import Processes, here
from sfumato.train.run import device_of
from sfumato.train.state import Rows, State
from sfumato.train.step import Step

# What a new bundle writes with; ancestral where nothing is said.
_SAMPLERS = {"masked": "threshold", "autoregressive": "left_to_right", "gaussian": "ode", "insertion": "tau_leaping"}


@dataclass
class Prepared:
    """A run that is ready for its first step."""

    config: BundleConfig
    """What the bundle will say about the model."""
    tokenizer: AnyTokenizer
    corpora: list[Corpus]
    """What it learns from, for held-out evaluation and the model card; may be empty."""
    state: State
    step: Callable[[], dict[str, Any]]
    """Makes one optimiser step and gives its record for metrics.jsonl."""


Prepare = Callable[[Recipe, AnyTokenizer, int, Progress | None], Prepared]
"""From a resolved recipe, its tokenizer, the number of steps, and who is told how much of the data has been read."""


def denoising(
    recipe: Recipe,
    tokenizer: AnyTokenizer,
    steps: int,
    reading: Progress | None,
    *,
    chat: ChatTemplate | None = None,
    shift: int | None = None,
) -> Prepared:
    """Train on documents; with `chat` on conversations, of which answers alone are learned.

    The bundle keeps the template `chat`, or that of `init`. `shift` is that of a masked network, None = that of `init`.

    Raises:
        ValueError: settings or data that cannot be used; one line.
    """
    config = described(recipe, tokenizer, chat, shift)
    encoder = turns(config) if chat else None
    corpora = here().in_turn(lambda: open_corpora(recipe.data, tokenizer, reading, encoder))
    denoiser = network(recipe, config)
    how: dict[str, Any] = {"context": recipe.model.context, "tokenizer": tokenizer, "seed": recipe.seed}
    if recipe.data.stream:
        stream = ShardedStream(recipe.data, corpora, encoder=encoder, **how)
    else:
        stream = Stream(corpora, [source.weight for source in recipe.data.sources], **how)
    state = new_state(recipe, denoiser, stream)
    return Prepared(config, tokenizer, corpora, state, Step(recipe, config, state, steps))


def described(
    recipe: Recipe, tokenizer: AnyTokenizer, chat: ChatTemplate | None, shift: int | None = None
) -> BundleConfig:
    """What the bundle will say about the model; see `denoising`."""
    start = read_description(find_bundle(recipe.init))[0] if recipe.init else None
    # A network may embed more tokens than its tokenizer has.
    vocab_size = start.model.vocab_size if start else tokenizer.vocab_size
    if recipe.model.vocab_size not in (0, vocab_size):
        raise ValueError(
            f"model.vocab_size: got {recipe.model.vocab_size}, the tokenizer has {vocab_size}; leave it at 0"
        )
    tokens = _special(recipe, tokenizer)
    process = build_process(
        recipe.process,
        vocab_size=vocab_size,
        mask_id=tokens.mask,
        never_written=tokens.never_written,
        shift=_shift_of(recipe) if shift is None else shift,
    )
    grows = isinstance(process, Growing)
    if grows and tokens.start is None:
        raise ValueError(f"init {recipe.init}: {process.name} needs a token that texts begin with, and it has none")
    if grows and recipe.model.block:
        raise ValueError(
            f"model.block: got {recipe.model.block}, but {process.name} has no blocks: its rows grow everywhere; "
            "leave it at 0"
        )
    foreign = start.foreign if start else None
    if foreign is not None and grows:
        raise ValueError(
            f"process.kind: {process.name} needs a second head, which only our own network has; use masked"
        )
    model = dataclasses.replace(recipe.model, vocab_size=vocab_size, gap_head=grows)
    layout = "causal" if process.name == "autoregressive" else "block" if model.block else "full"
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
        chat=chat.to_dict() if chat else start.chat if start else None,
        foreign=foreign,
    )


def _special(recipe: Recipe, tokenizer: AnyTokenizer) -> SpecialTokens:
    """What the tokenizer's special ids mean; of another model's tokenizer that model says so."""
    if isinstance(tokenizer, Tokenizer):
        return SpecialTokens(tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.start_id)
    start = read_description(find_bundle(recipe.init))[0]
    # What becomes a diffusion model here never writes its mask, whatever it was before.
    return dataclasses.replace(start.tokens, written=start.tokens.written and start.process.kind == recipe.process.kind)


def _shift_of(recipe: Recipe) -> int:
    """A masked network that predicts from the place before goes on doing so in other training."""
    if not recipe.init:
        return 0
    init = read_description(find_bundle(recipe.init))[0]
    return init.shift if init.process.kind == recipe.process.kind else 0


def turns(config: BundleConfig) -> Turns:
    """How a model's conversations become rows."""
    assert config.chat is not None
    template = ChatTemplate.from_dict(config.chat)
    block = config.sampler.get("block") or config.model.block if config.layout == "block" else 0
    return Turns(template, config.model.context, block, fill=config.layout != "causal" and not config.model.gap_head)


def network(recipe: Recipe, config: BundleConfig) -> Network:
    """The network before the first step, on its device: with random weights, or with those of `init`.

    With `lora.rank` those are frozen, and adapters beside them learn.

    Raises:
        ValueError: weights that do not fit, or adapters of nothing; one line.
    """
    processes, (device, dtype) = here(), device_of(recipe)
    # A network of our own is shared before it has weights, so that no process ever holds all of them.
    apart = processes.mesh is not None and config.foreign is None and not recipe.lora.rank
    with without_weights() if recipe.init or apart else contextlib.nullcontext():  # never two copies of them
        denoiser = build_network(
            config, gradient_checkpointing=recipe.train.checkpointing, dropout=recipe.train.dropout
        )
    if apart:
        assert isinstance(denoiser, Transformer)
        weights = _weights(denoiser, config, recipe.init) if recipe.init else denoiser.drawn(recipe.seed)
        processes.share(denoiser, dtype, compiled=recipe.train.compile)
        _fill(denoiser, weights, processes)
        return denoiser.to(device)
    if recipe.init:
        # Copies, since a public model's weights may be pages of its files; one by one, since they may be large.
        copies = {name: value.clone() for name, value in _weights(denoiser, config, recipe.init)}
        denoiser.load_state_dict(copies, assign=True)
    else:
        denoiser.initialise(recipe.seed)
    if recipe.lora.rank:
        _check_base(recipe, config)
        add_adapters(denoiser, recipe.lora, recipe.seed)
    denoiser = denoiser.to(device)
    processes.share(denoiser, dtype, compiled=recipe.train.compile)
    return denoiser


def _fill(denoiser: Transformer, weights: Iterable[tuple[str, torch.Tensor]], processes: Processes) -> None:
    """Give a network that is shared and empty this process's part of each weight."""
    like = denoiser.state_dict()
    parts = {name: nn.Parameter(processes.part(value, like[name])) for name, value in weights}
    denoiser.load_state_dict(parts, assign=True)


def _check_base(recipe: Recipe, config: BundleConfig) -> None:
    """ConfigError unless there is something to adapt, and something that adapters alone can be kept for."""
    if not recipe.init:
        raise ConfigError("lora.rank: adapters need a model to adapt; name it as init, or set lora.rank = 0")
    layers = read_description(find_bundle(recipe.init))[0].model.layers
    if not recipe.lora.merge and config.model.layers != layers:
        raise ConfigError(
            f"lora.merge = false: an adapter needs all {layers} layers of {recipe.init}, got model.layers = "
            f"{config.model.layers}; use {layers}, or set lora.merge = true"
        )


def new_state(recipe: Recipe, denoiser: Network, stream: Rows) -> State:
    """The state before the first step."""
    state = State(denoiser, build_optimisers(denoiser, recipe.train), {}, stream, processes=here())
    if recipe.train.ema:
        state.average = {name: p.detach().clone() for name, p in state.learned.items()}
    if recipe.lora.rank:
        state.base = identity(find_bundle(recipe.init))
    return state


def _weights(denoiser: Network, config: BundleConfig, init: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A bundle's weights, one by one; layout, process and context may differ from this network's, sizes not.

    A network with fewer layers takes evenly chosen ones, the first and the last among them.

    Raises:
        ValueError: the first tensor that does not fit.
    """
    bundle = Bundle.load(find_bundle(init))
    if bundle.config.quantised:
        raise ValueError(
            f"init {init}: its weights are quantised ({bundle.config.quantised.kinds}), and codes do not learn; train "
            "the model that it was made from, and compress the result"
        )
    expected = {name: tensor.shape for name, tensor in denoiser.state_dict().items()}
    state = _thinned(bundle.denoiser.state_dict(), bundle.config.model.layers, config.model.layers)
    del bundle
    for name in sorted(state.keys() | expected.keys()):
        found = list(state[name].shape) if name in state else "absent"
        wanted = list(expected[name]) if name in expected else "absent"
        if found != wanted:
            raise ValueError(
                f"init {init}: {name} is {found} there, this recipe's model asks for {wanted}; use its sizes"
            )
    for name in list(state):
        yield name, state.pop(name)


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
