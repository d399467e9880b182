"""How fast we write: tokens/s and where the time goes, beside transformers' Llama and the public LLaDA loop.

    python benchmarks/generate_speed.py --peer LLaDA/generate.py --json generate_speed.json

All networks have the same size and random weights, so this shows speed and nothing else; end of text, mask, padding and
start are never written, so every contestant writes the same number of tokens. Rounds are interleaved and ratios are
taken round by round. transformers is no part of Sfumato: without it its row is left out.

Shape letters: B rows, P prompt length, L canvas length, N scored positions, D width, V vocabulary.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench
import peers
import torch
from torch import Tensor

from sfumato.config import ModelConfig
from sfumato.model.layout import Causal, Full, Layout
from sfumato.model.transformer import Transformer
from sfumato.process import Autoregressive, Masked, Process
from sfumato.sample.decoder import Decoder
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order
from sfumato.sample.rows import Request
from sfumato.sample.sampler import Sampler
from sfumato.sample.threshold import Threshold

MASK, END, PAD, START, FIRST = 0, 1, 2, 3, 4  # token ids; text begins at FIRST


class Watched:
    """Our network for our decoder, watched."""

    def __init__(self, network: Transformer, probe: bench.Probe):
        """Around one network."""
        self.probe = probe
        self._encode, self.readout = probe.watch.around(network.encode), probe.watch.around(network.readout)

    def encode(self, inputs_BQ: Tensor, **named: Any) -> Tensor:
        """As the network's."""
        self.probe.count(inputs_BQ)
        return self._encode(inputs_BQ, **named)


@dataclass
class Contestant:
    """One way to write; `run` returns the new tokens (B, new)."""

    name: str
    run: Callable[[], Tensor]
    probe: bench.Probe
    seconds: list[float] = field(default_factory=list)
    network_seconds: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    tokens: Tensor | None = None

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
    device: torch.device


def ours(
    setting: Setting,
    name: str,
    sampler: Sampler,
    *,
    temperature: float = 0.0,
    process: Process | None = None,
    layout: Layout | None = None,
) -> Contestant:
    """Our decoder; masked and full unless said otherwise."""
    probe = bench.Probe(setting.device)
    steps = setting.new if isinstance(sampler, LeftToRight) else setting.steps

    def run() -> Tensor:
        decoder = Decoder(
            Watched(setting.network, probe),
            process or Masked(MASK),
            layout or Full(),
            end_id=END,
            device=setting.device,
        )
        for i, prompt in enumerate(setting.prompt_BP.tolist()):
            editable = [False] * len(prompt) + [True] * setting.new
            row = [*prompt, *[MASK] * setting.new]
            decoder.add(Request(row, editable, sampler, steps=steps, temperature=temperature, seed=i))
        done: dict[int, tuple[int, ...]] = {}
        while decoder.busy:
            done |= {event.request: event.tokens for event in decoder.step() if event.tokens is not None}
        return torch.tensor([done[i] for i in sorted(done)])[:, setting.prompt_BP.shape[1] :]

    return Contestant(name, run, probe)


def full_canvas(setting: Setting, name: str, loop: Callable[..., Tensor], **options: Any) -> Contestant:
    """The LLaDA loop, public or ours, on our network."""
    probe = bench.Probe(setting.device)
    model = peers.FullCanvas(setting.network, probe)

    def run() -> Tensor:
        tokens_BL = loop(model, setting.prompt_BP, steps=setting.steps, gen_length=setting.new, mask_id=MASK, **options)
        return tokens_BL[:, setting.prompt_BP.shape[1] :].cpu()

    return Contestant(name, run, probe)


def llama(setting: Setting, dtype: torch.dtype) -> Contestant:
    """transformers' autoregressive model of the same size."""
    probe = bench.Probe(setting.device)
    name, write = peers.llama(setting.network.config, setting.device, dtype, probe)

    def run() -> Tensor:
        return write(setting.prompt_BP, setting.new)[:, setting.prompt_BP.shape[1] :].cpu()

    return Contestant(f"{name}, KV cache", run, probe)


def contestants(setting: Setting, dtype: torch.dtype, peer: Path | None, notes: list[str]) -> list[Contestant]:
    """Everybody who takes part; the first one and LLaDA's loop are what the others are compared with."""
    everybody = []
    try:
        everybody.append(llama(setting, dtype))
    except ImportError:
        notes.append("transformers is not installed: its Llama is left out (pip install transformers)")
    loop = None
    if peer:
        try:
            loop = full_canvas(setting, "LLaDA generate.py", peers.load_file(peer).generate, block_length=setting.new)
        except ImportError as error:
            notes.append(f"--peer {peer} was left out: {error}")
    if not loop:
        loop = full_canvas(setting, "LLaDA's loop, rewritten", peers.full_canvas_loop)
        notes.append("no --peer PATH/LLaDA/generate.py: a loop that does the same stands in for it")
    everybody.append(loop)
    everybody.append(ours(setting, "ours, confidence", Order("confidence")))
    everybody.append(ours(setting, "ours, margin, temperature 1", Order("margin"), temperature=1.0))
    everybody.append(ours(setting, "ours, threshold 0.9", Threshold(0.9)))
    twin = {"process": Autoregressive(), "layout": Causal()}
    everybody.append(ours(setting, "ours, AR twin, no cache", LeftToRight(), **twin))
    return everybody


def random_network(args: argparse.Namespace) -> Transformer:
    """Weights that make every position different, unlike those that training starts from."""
    config = ModelConfig(**bench.sizes_of(args), vocab_size=args.vocab, context=args.prompt + args.new, tied=False)
    network = Transformer(config, never_written=(MASK, END, PAD, START))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
    return network.eval().requires_grad_(False)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_sizes(parser, width=512, layers=8, heads=8, mlp_width=1792, vocab=8192)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=256, help="tokens to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=64, help="forwards to write them in (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="rows at once, one table each (default: 1)")
    parser.add_argument(
        "--peer", type=bench.existing_file, metavar="FILE", help="LLaDA's generate.py, to measure it as well"
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    bench.add_flags(parser)
    args = parser.parse_args()
    if args.steps < 1 or args.new % args.steps:
        parser.error(f"--steps must divide --new: got {args.steps} and {args.new}")
    return args


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    device, dtype = bench.begin(args)
    about, notes = bench.machine(device, dtype), []
    if dtype == torch.float32 and args.dtype == "auto":
        notes.append("float32, because bfloat16 products are not faster on this device")
    network = random_network(args).to(device, dtype)
    blocks = network.num_parameters() - 2 * args.vocab * args.width
    print(f"{blocks / 1e6:.2f}M block parameters, {args.prompt} + {args.new} tokens, {args.steps} steps")
    tables, different = [], False
    for batch in args.batch:
        generator = torch.Generator().manual_seed(1)
        prompt_BP = torch.randint(FIRST, args.vocab, (batch, args.prompt), generator=generator).to(device)
        setting = Setting(network, prompt_BP, args.new, args.steps, device)
        noted: list[str] = []
        everybody = contestants(setting, dtype, args.peer, noted)
        notes += [note for note in noted if note not in notes]
        measure(everybody, args.rounds)
        loop = next(one for one in everybody if one.name.startswith("LLaDA"))
        rows = [result(one, everybody[0], loop, setting) for one in everybody]
        same = agreement(everybody)
        different |= same < 1 and dtype == torch.float32
        show(rows, batch, everybody[0].name, same)
        tables.append({"batch": batch, "compared_with": everybody[0].name, "same_tokens": same, "rows": rows})
    bench.finish(args.json, about, notes, block_parameters=blocks, new=args.new, prompt=args.prompt, tables=tables)
    if different:
        print("error: the confidence sampler did not write the tokens of LLaDA's loop", file=sys.stderr)
    return int(different)


def measure(everybody: list[Contestant], rounds: int) -> None:
    """Warm up, then the rounds."""
    for one in everybody:
        one.run()
    for i in range(rounds):
        print(f"round {i + 1} of {rounds}", file=sys.stderr, flush=True)
        for one in everybody:
            one.play()


def agreement(everybody: list[Contestant]) -> float:
    """Share of equal tokens: confidence at temperature 0 and LLaDA's loop follow the same rule.

    In bfloat16 probabilities tie, and the two break ties differently.
    """
    loop, confidence = (next(o.tokens for o in everybody if o.name.startswith(n)) for n in ("LLaDA", "ours, conf"))
    assert loop is not None and confidence is not None
    return float((loop == confidence).double().mean())


def result(one: Contestant, first: Contestant, loop: Contestant, setting: Setting) -> dict[str, Any]:
    """One row of the table."""
    rows = len(setting.prompt_BP)
    tokens, forwards = rows * setting.new, one.probe.forwards
    assert one.tokens is not None and one.tokens.shape == (rows, setting.new) and int(one.tokens.min()) >= FIRST
    return {
        "name": one.name,
        "tokens_per_second": bench.spread([tokens / seconds for seconds in one.seconds]),
        "nfe": forwards,
        "tpf": round(setting.new / forwards, 3),
        "ms_per_forward": bench.spread([1000 * seconds / forwards for seconds in one.network_seconds]),
        "positions_per_token": round(one.probe.positions / tokens, 2),
        "outside": round(statistics.median(one.outside), 4),
        "ratio_to_first": bench.spread([b / a for a, b in zip(one.seconds, first.seconds, strict=True)]),
        "ratio_to_loop": bench.spread([b / a for a, b in zip(one.seconds, loop.seconds, strict=True)]),
    }


def show(rows: list[dict[str, Any]], batch: int, first: str, same: float) -> None:
    """Print the table of one batch size."""
    head = [f"batch {batch}", "tokens/s (min-max)", "NFE", "TPF", "ms/forward", "positions/token", "outside"]
    head += [f"x {first.partition(',')[0]}", "x LLaDA's loop"]
    cells = [
        [
            row["name"],
            bench.shown(row["tokens_per_second"], ",.1f"),
            str(row["nfe"]),
            f"{row['tpf']:.2f}",
            f"{row['ms_per_forward']['median']:.1f}",
            f"{row['positions_per_token']:.1f}",
            f"{row['outside']:.0%}",
            f"{row['ratio_to_first']['median']:.2f}",
            f"{row['ratio_to_loop']['median']:.2f}",
        ]
        for row in rows
    ]
    print()
    bench.print_table(head, cells)
    print(f"tokens that ours, confidence, and LLaDA's loop have in common: {same:.2%}")


if __name__ == "__main__":
    sys.exit(main())
