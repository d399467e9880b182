"""Who takes part in `generate_speed.py`: our decoder with every cache, and the public programs.

Shape letters: B rows, P prompt length, Q positions run in a forward.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench
import programs
import torch
from torch import Tensor

from sfumato.model.layout import Block, Causal, Full, Layout
from sfumato.model.transformer import Transformer
from sfumato.process import Autoregressive, Masked, Process
from sfumato.sample.compiled import CompiledTrunk
from sfumato.sample.decoder import Decoder
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order
from sfumato.sample.reuse import Reuse
from sfumato.sample.rows import Request
from sfumato.sample.sampler import Sampler
from sfumato.sample.threshold import Threshold

MASK, END, PAD, START, FIRST = 0, 1, 2, 3, 4  # token ids; text begins at FIRST


class Watched:
    """Our network for our decoder, watched."""

    def __init__(self, network: Transformer, probe: bench.Probe):
        """Around one network."""
        self.probe, self.empty_cache = probe, network.empty_cache
        self._encode, self.readout = probe.watch.around(network.encode), probe.watch.around(network.readout)

    def encode(self, inputs_BQ: Tensor, **named: Any) -> Tensor:
        """As the network's."""
        self.probe.count(inputs_BQ)
        return self._encode(inputs_BQ, **named)


class WatchedTrunk(CompiledTrunk):
    """The compiled trunk, watched; rows that only fill it up are not counted."""

    def __init__(self, network: Transformer, probe: bench.Probe):
        """Around one network, which the compiler sees as it is."""
        super().__init__(network, probe.watch.device)
        self.probe, self._timed = probe, probe.watch.around(super().encode)

    def encode(self, inputs_BQ: Tensor, **named: Any) -> Tensor:
        """As the trunk's."""
        self.probe.count(inputs_BQ)
        return self._timed(inputs_BQ, **named)


@dataclass
class Contestant:
    """One way to write; `run` returns the new tokens (B, new)."""

    name: str
    run: Callable[[], Tensor]
    probe: bench.Probe
    reference: str = ""
    """Short title of the column in which everybody's speed is divided by this one's; empty = no column."""
    like: str = ""
    """Name of the contestant whose tokens are compared with this one's."""
    exactly: bool = False
    """Whether they must be the same."""
    compiled: bool = False
    first_seconds: float = 0.0
    """Of the first run, compilation included; never part of a round."""
    seconds: list[float] = field(default_factory=list)
    network_seconds: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    tokens: Tensor | None = None

    def warm_up(self) -> None:
        """Run before the rounds; what is compiled runs twice, because a GPU records its graph in the second run."""
        self.first_seconds = self._timed()
        if self.compiled:
            self._timed()

    def play(self) -> None:
        """Run once and take note."""
        seconds = self._timed()
        self.seconds.append(seconds)
        watch = self.probe.watch
        if not watch.on:  # on a GPU the stopwatch has to wait for it, so the share takes a run of its own
            watch.on = True
            seconds = self._timed()
            watch.on = False
        self.network_seconds.append(watch.seconds)
        self.outside.append(1 - watch.seconds / seconds)

    def _timed(self) -> float:
        self.probe.clear()
        start = self.probe.watch.now()
        self.tokens = self.run()
        return self.probe.watch.now() - start


@dataclass(frozen=True)
class Setting:
    """What all contestants share."""

    network: Transformer
    prompt_BP: Tensor
    new: int
    steps: int
    block: int
    """Tokens a block, for those who write block by block."""
    device: torch.device
    dtype: torch.dtype
    compile: bool
    """Whether some take part compiled as well."""


def ours(
    setting: Setting,
    name: str,
    sampler: Sampler,
    *,
    process: Process | None = None,
    layout: Layout | None = None,
    cache: str = "none",
    block: int = 0,
    temperature: float = 0.0,
    compiled: bool = False,
    **about: Any,
) -> Contestant:
    """Our decoder; masked and full unless said otherwise. `about` are fields of the contestant."""
    probe = bench.Probe(setting.device)
    steps = setting.new if isinstance(sampler, LeftToRight) else setting.steps
    trunk = WatchedTrunk(setting.network, probe) if compiled else None

    def run() -> Tensor:
        decoder = Decoder(
            Watched(setting.network, probe),
            process or Masked(MASK),
            layout or Full(),
            end_id=END,
            device=setting.device,
            reuse=Reuse(cache),
            compiled=trunk,
        )
        for i, prompt in enumerate(setting.prompt_BP.tolist()):
            editable = [False] * len(prompt) + [True] * setting.new
            row = [*prompt, *[MASK] * setting.new]
            decoder.add(Request(row, editable, sampler, steps=steps, temperature=temperature, block=block, seed=i))
        done: dict[int, tuple[int, ...]] = {}
        while decoder.busy:
            done |= {event.request: event.tokens for event in decoder.step() if event.tokens is not None}
        return torch.tensor([done[i] for i in sorted(done)])[:, setting.prompt_BP.shape[1] :]

    return Contestant(name, run, probe, compiled=compiled, **about)


def public(
    setting: Setting, name: str, write: Callable[[Tensor], Tensor], probe: bench.Probe, **about: Any
) -> Contestant:
    """A public program: `write` makes tokens_BL of prompt_BP."""

    def run() -> Tensor:
        return write(setting.prompt_BP)[:, setting.prompt_BP.shape[1] :].cpu()

    return Contestant(name, run, probe, **about)


def llamas(setting: Setting, notes: list[str]) -> list[Contestant]:
    """transformers' autoregressive model of the same size, if it is there."""
    found = []
    where = setting.network.config, setting.device, setting.dtype
    for compiled in (False, True) if setting.compile else (False,):
        probe = bench.Probe(setting.device)
        how = ", compiled" if compiled else ""
        try:
            name, write = programs.llama(*where, probe, new=setting.new, never=FIRST, compiled=compiled)
        except ImportError:
            notes.append("transformers is not installed: its Llama is left out (pip install transformers)")
            return []
        name = f"{name}, {'static ' * compiled}KV cache{how}"
        found.append(public(setting, name, write, probe, reference=f"Llama{how}", compiled=compiled))
    return found


def llada_loop(setting: Setting, peer: Path | None, notes: list[str]) -> Contestant:
    """The LLaDA loop on our network: the public one, or one that does the same."""
    probe = bench.Probe(setting.device)
    model = programs.FullCanvas(setting.network, probe)
    name, loop, options = "LLaDA's loop, rewritten", programs.full_canvas_loop, {}
    if peer:
        try:
            loop = programs.load_file(peer).generate
            name, options = "LLaDA generate.py", {"block_length": setting.new}
        except ImportError as error:
            notes.append(f"--peer {peer} was left out: {error}")
    if not options:
        notes.append("no --peer PATH/LLaDA/generate.py: a loop that does the same stands in for it")

    def write(prompt_BP: Tensor) -> Tensor:
        return loop(model, prompt_BP, steps=setting.steps, gen_length=setting.new, mask_id=MASK, **options)

    return public(setting, name, write, probe, reference="LLaDA's loop")


def fast_dllm(setting: Setting, peer: Path | None, notes: list[str]) -> list[Contestant]:
    """Fast-dLLM's two caches on its own network of the same size; it writes one row at a time."""
    if not peer:
        notes.append("no --fast-dllm PATH/Fast-dLLM/llada/generate.py: it is left out")
        return []
    if len(setting.prompt_BP) > 1:
        notes.append("Fast-dLLM writes one row at a time: it is left out of the larger batches")
        return []
    found = []
    for cache in ("prefix", "dual"):
        probe = bench.Probe(setting.device)
        try:
            write = programs.fast_dllm(
                peer,
                cache,
                setting.network.config,
                setting.device,
                setting.dtype,
                probe,
                mask_id=MASK,
                never=FIRST,
                steps=setting.steps,
                gen_length=setting.new,
                block_length=setting.block,
            )
        except ImportError as error:
            notes.append(f"--fast-dllm {peer} was left out: {error}")
            return []
        reference = "Fast-dLLM dual" if cache == "dual" else ""
        found.append(public(setting, f"Fast-dLLM, {cache} cache", write, probe, reference=reference))
    return found


def everybody(setting: Setting, peer: Path | None, fast: Path | None, notes: list[str]) -> list[Contestant]:
    """All who take part; where a peer is missing, a note says so."""
    loop = llada_loop(setting, peer, notes)
    confidence, block = Order("confidence"), setting.block
    found = [*llamas(setting, notes), loop, *fast_dllm(setting, fast, notes)]
    found += [
        ours(setting, "ours, confidence", confidence, like=loop.name, exactly=True),
        ours(setting, "ours, margin, temperature 1", Order("margin"), temperature=1.0),
        ours(setting, "ours, threshold 0.9", Threshold(0.9)),
    ]
    full = f"ours, {block} at a time"
    found.append(ours(setting, f"{full}, no cache", confidence, block=block))
    for cache in ("prefix", "dual"):
        found.append(
            ours(setting, f"{full}, {cache} cache", confidence, block=block, cache=cache, like=f"{full}, no cache")
        )
    found += exact_caches(setting, "ours, block layout", confidence, layout=Block(), block=block)
    twin = {"process": Autoregressive(), "layout": Causal(), "reference": "AR twin"}
    found += exact_caches(setting, "ours, AR twin", LeftToRight(), **twin)
    return found


def exact_caches(setting: Setting, name: str, sampler: Sampler, *, reference: str = "", **how: Any) -> list[Contestant]:
    """Without a cache, with the exact one, and compiled besides; all of them must write the same."""
    plain = ours(setting, f"{name}, no cache", sampler, **how)
    same = {"cache": "exact", "like": plain.name, "exactly": True, **how}
    found = [plain, ours(setting, f"{name}, exact cache", sampler, reference=reference, **same)]
    if setting.compile:
        title = f"{reference}, compiled" if reference else ""
        found.append(ours(setting, f"{name}, exact cache, compiled", sampler, reference=title, compiled=True, **same))
    return found
