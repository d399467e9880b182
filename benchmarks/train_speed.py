"""How fast we train: tokens/s of the real training step, beside what matrix products reach on the same machine.

    python benchmarks/train_speed.py --compile --peer nanoGPT/model.py --json train_speed.json

Every contestant trains on the same stream of packed rows; rounds are interleaved, so that a change of the machine's
speed hits everybody. Tokens of a step are batch x context; a masked model scores about half of them.

Shape letters: B rows, L row length, N scored positions, D width, V vocabulary.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bench
import numpy as np
import programs
import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.config import ModelConfig, ProcessConfig, Recipe, TrainConfig
from sfumato.data.batches import Batch, Stream
from sfumato.data.cache import Corpus
from sfumato.data.sources import Report
from sfumato.evaluate import likelihood
from sfumato.model.bundle import BundleConfig, SpecialTokens
from sfumato.model.transformer import Transformer
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.optimiser import build_optimisers
from sfumato.train.state import State
from sfumato.train.step import Step

FORMULA = (
    "FLOP/token = 6 x block parameters + 6 x V x width x (share of positions with logits) + 12 x layers x L x width"
)


class FullLogits(Step):
    """Our step, had we projected every position to the vocabulary and then chosen the scored ones."""

    def _forward(
        self,
        denoiser: Any,
        inputs_BL: Tensor,
        clean_BL: Tensor,
        where: Where,
        t_BL: Tensor,
        read_N: Tensor,
        index_N: Tensor,
    ) -> tuple[Tensor, None]:
        hidden_BLD = denoiser.encode(inputs_BL, where=where, layout=self.layout, t_BQ=t_BL)
        return denoiser.readout(hidden_BLD).flatten(0, 1)[read_N], None


@dataclass
class Contestant:
    """One way to train, ready to make steps."""

    name: str
    step: Callable[[], Any]
    quality: Callable[[], float]
    """Nats per token of the fixed batch, with the weights of now."""
    flop_per_token: float
    update: bench.Stopwatch
    """Runs while the optimiser, the clipping and the weights' average do."""
    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    quality_before: float = 0.0

    def run(self, steps: int, tokens: int) -> None:
        """Make so many steps and note tokens/s and the optimiser's share."""
        seconds = self._seconds(steps)
        self.rates.append(steps * tokens / seconds)
        if not self.update.on:  # on a GPU the stopwatch has to wait for it, so the share takes a step of its own
            self.update.on = True
            seconds = self._seconds(1)
            self.update.on = False
        self.shares.append(self.update.seconds / seconds)

    def _seconds(self, steps: int) -> float:
        self.update.seconds = 0.0
        start = self.update.now()
        for _ in range(steps):
            self.step()
        return self.update.now() - start


def learnable_corpus(vocabulary: int, tokens: int, seed: int = 0) -> Corpus:
    """Documents as long as short stories, each a stretch of one cycle through 64 tokens."""
    generator = np.random.default_rng(seed)
    cycle = generator.choice(np.arange(7, vocabulary), size=min(64, vocabulary - 7), replace=False)
    lengths = generator.integers(40, 400, size=max(2, tokens // 220))
    documents = [np.append(np.resize(np.roll(cycle, int(n)), n - 1), Tokenizer.end_id) for n in lengths]
    numbers = np.arange(len(lengths))
    return Corpus(
        path="learnable",
        key="learnable",
        tokens=np.concatenate(documents).astype(np.uint32),
        offsets=np.cumsum([0, *lengths]),
        prompts=np.zeros_like(lengths),
        bytes=np.array(lengths),
        hashes=numbers.astype(np.uint64),
        train=numbers,
        held_out=numbers[:0],
        report=Report(),
    )


@dataclass(frozen=True)
class Setting:
    """What all contestants share."""

    model: ModelConfig
    train: TrainConfig
    corpus: Corpus
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype

    def stream(self) -> Stream:
        """The rows to train on, the same for everybody."""
        return Stream([self.corpus], [1.0], context=self.model.context, tokenizer=self.tokenizer, seed=0)

    def fixed(self) -> Batch:
        """A few rows to measure quality on."""
        return self.stream().rows(min(8, self.train.batch))

    @property
    def block_parameters(self) -> int:
        """Of our network, all but the embedding."""
        return Transformer(self.model).num_parameters() - self.model.vocab_size * self.model.width

    def flop_per_token(self, block_parameters: int, logit_share: float) -> float:
        """By FORMULA; causal attention counts as full, as is the custom."""
        m = self.model
        return 6.0 * block_parameters + 6 * m.vocab_size * m.width * logit_share + 12 * m.layers * m.context * m.width


def ours(setting: Setting, name: str, kind: str, logit_share: float, step: type[Step] = Step) -> Contestant:
    """Our training step, masked or autoregressive."""
    tokens = SpecialTokens(Tokenizer.mask_id, Tokenizer.end_id, Tokenizer.pad_id, Tokenizer.start_id)
    process, shift = ProcessConfig(kind=kind), int(kind == "autoregressive")
    config = BundleConfig(setting.model, process, "causal" if shift else "full", shift, tokens, "")
    never = (tokens.mask, tokens.pad, tokens.start)
    denoiser = Transformer(setting.model, never_written=never).initialise(0).to(setting.device)
    average = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
    state = State(denoiser, build_optimisers(denoiser, setting.train), average, setting.stream())
    once = step(Recipe(model=setting.model, process=process, train=setting.train), config, state, steps=1 << 30)
    watch = bench.Stopwatch(setting.device)
    once.update._update = watch.around(once.update._update)
    fixed = setting.fixed()

    def quality() -> float:
        result = likelihood(
            denoiser, once.process, once.layout, fixed, int(fixed.editable_BL.sum()), samples=2, device=setting.device
        )
        return result.nats_per_token

    return Contestant(name, once, quality, setting.flop_per_token(setting.block_parameters, logit_share), watch)


def nanogpt(setting: Setting, name: str, path: Path) -> Contestant:
    """The public nanoGPT on the same rows."""
    one = programs.NanoGPT(path, setting.model, setting.train.lr, setting.device, setting.dtype, setting.train.compile)
    stream, fixed = setting.stream(), setting.fixed()
    flop = setting.flop_per_token(one.block_parameters, 1.0)
    return Contestant(
        name, lambda: one.step(stream.rows(setting.train.batch)), lambda: one.nats_per_token(fixed), flop, one.update
    )


def contestants(setting: Setting, args: argparse.Namespace, notes: list[str]) -> list[Contestant]:
    """Everybody who takes part."""
    found = []
    for compiled in (False, True) if args.compile else (False,):
        how = "compiled" if compiled else "eager"
        here = replace(setting, train=replace(setting.train, compile=compiled))
        found.append(ours(here, f"masked, {how}", "masked", 0.5))
        found.append(ours(here, f"masked, {how}, full logits", "masked", 1.0, FullLogits))
        found.append(ours(here, f"autoregressive, {how}", "autoregressive", 1.0))
        if args.peer:
            found.append(nanogpt(here, f"nanoGPT, {how}", args.peer))
    if not args.peer:
        notes.append("no --peer PATH/nanoGPT/model.py was given: nanoGPT is left out")
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_sizes(parser, width=384, layers=6, heads=6, mlp_width=1024, vocab=4096, context=256)
    parser.add_argument("--batch", type=int, default=32, help="rows in a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="timed steps a round; 0 = 2 on the CPU, 20 on a GPU")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the first round (default: %(default)s)")
    parser.add_argument("--optimizer", default="muon", choices=("muon", "adamw"), help="ours (default: %(default)s)")
    parser.add_argument("--product", type=int, default=0, help="matrix size; 0 = 2048 on the CPU, 8192 on a GPU")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument(
        "--peer", type=bench.existing_file, metavar="FILE", help="nanoGPT's model.py, to measure it as well"
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    bench.add_flags(parser)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    device, dtype = bench.begin(args)
    steps = args.steps or (2 if device.type == "cpu" else 20)
    size = args.product or (2048 if device.type == "cpu" else 8192)
    about, notes = bench.machine(device, dtype), []
    products = {n: bench.product_rate(getattr(torch, n), device, size) for n in ("float32", "bfloat16")}
    for name, (rate, used) in products.items():
        print(f"{name} matrix product {used}^3: {rate / 1e9:,.0f} GFLOP/s")
    if dtype == torch.float32 and args.dtype == "auto":
        notes.append("float32, because bfloat16 products are not faster on this device")
    setting = Setting(
        ModelConfig(**bench.sizes_of(args), vocab_size=args.vocab, context=args.context),
        TrainConfig(
            batch=args.batch, optimizer=args.optimizer, warmup=1, decay=0.0, device=device.type, dtype=about["dtype"]
        ),
        learnable_corpus(args.vocab, tokens=args.batch * args.context * 64),
        Tokenizer.train([], 263),
        device,
        dtype,
    )
    print(f"{FORMULA}\n{setting.block_parameters / 1e6:.2f}M block parameters, {args.batch} x {args.context} tokens\n")
    everybody = contestants(setting, args, notes)
    ceilings = measure(
        everybody, args, steps, lambda: bench.product_rate(dtype, device, products[about["dtype"]][1])[0]
    )
    rows = [result(one, everybody[0], ceilings, args.batch * args.context) for one in everybody]
    show(rows, everybody[0].name, about["dtype"])
    results = {
        "formula": FORMULA,
        "block_parameters": setting.block_parameters,
        "products": {n: {"flops": float(f"{rate:.4g}"), "size": used} for n, (rate, used) in products.items()},
        "ceiling_flops": bench.spread(ceilings),
        "tokens_per_step": args.batch * args.context,
        "rows": rows,
    }
    bench.finish(args.json, about, notes, **results)
    stuck = [row["name"] for row in rows if not row["nats_after"] < row["nats_before"]]
    if stuck:
        print(f"error: no finite, falling loss: {', '.join(stuck)}", file=sys.stderr)
    return int(bool(stuck))


def measure(
    everybody: list[Contestant], args: argparse.Namespace, steps: int, ceiling: Callable[[], float]
) -> list[float]:
    """Warm up, then the rounds; returns the matrix products' FLOP/s in each round."""
    for one in everybody:
        one.quality_before = one.quality()
        for _ in range(args.warmup):
            one.step()
    ceilings = []
    for i in range(args.rounds):
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr, flush=True)
        ceilings.append(ceiling())
        for one in everybody:
            one.run(steps, args.batch * args.context)
    return ceilings


def result(one: Contestant, first: Contestant, ceilings: list[float], tokens: int) -> dict[str, Any]:
    """One row of the table."""
    return {
        "name": one.name,
        "tokens_per_second": bench.spread(one.rates),
        "ms_per_step": bench.spread([1000 * tokens / rate for rate in one.rates]),
        "flop_per_token": one.flop_per_token,
        "fraction_of_product": bench.spread(
            [r * one.flop_per_token / c for r, c in zip(one.rates, ceilings, strict=True)]
        ),
        "ratio": bench.spread([a / b for a, b in zip(one.rates, first.rates, strict=True)]),
        "optimiser_share": round(statistics.median(one.shares), 4),
        "nats_before": round(one.quality_before, 4),
        "nats_after": round(one.quality(), 4),
    }


def show(rows: list[dict[str, Any]], first: str, dtype: str) -> None:
    """Print the table."""
    head = ["", "tokens/s (min-max)", "ms/step", f"x {first}", "MFLOP/token", f"of {dtype} product", "optimiser"]
    head += ["nats/token before -> after"]
    cells = [
        [
            row["name"],
            bench.shown(row["tokens_per_second"]),
            f"{row['ms_per_step']['median']:,.0f}",
            f"{row['ratio']['median']:.2f}",
            f"{row['flop_per_token'] / 1e6:.1f}",
            f"{row['fraction_of_product']['median']:.1%}",
            f"{row['optimiser_share']:.1%}",
            f"{row['nats_before']:.2f} -> {row['nats_after']:.2f}",
        ]
        for row in rows
    ]
    bench.print_table(head, cells)


if __name__ == "__main__":
    sys.exit(main())
