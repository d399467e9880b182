"""What fits into 8, 24 and 80 GiB: formulas, held against what small runs really need.

    python benchmarks/memory.py --threads 1 --json memory.json

A run is a process of its own in which glibc gives back what is free. It needs what its resident set grows by at its
peak, after the same work on a network of no size has imported everything. Beside it stands the sum of the formulas,
those of `sfumato.compress.fits`.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import torch

from sfumato.canvas import Where
from sfumato.compress.fits import CARDS, GIB, ROOM, WAYS, Work, card_for, needed, use
from sfumato.compress.quantise import quantised
from sfumato.config import ModelConfig, ProcessConfig, Recipe, TrainConfig
from sfumato.config.tuning import LoraConfig
from sfumato.data.batches import Batch, Stream
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens
from sfumato.model.layout import Full
from sfumato.model.lora import add_adapters
from sfumato.model.transformer import Transformer
from sfumato.train.optimiser import build_optimisers
from sfumato.train.state import State
from sfumato.train.step import Step

MIB = 2**20
MODELS = {
    "0.5B": ModelConfig(151936, 896, 24, 14, 2, mlp_width=4864, qkv_bias=True, qk_norm=False),
    "1.5B": ModelConfig(151936, 1536, 28, 12, 2, mlp_width=8960, qkv_bias=True, qk_norm=False),
    "7B": ModelConfig(152064, 3584, 28, 28, 4, mlp_width=18944, qkv_bias=True, qk_norm=False, tied=False),
    "8B": ModelConfig(126464, 4096, 32, 32, mlp_width=12288, qk_norm=False, tied=False),
}
"""The shapes of Qwen2.5-0.5B and -1.5B, of Dream-7B (that of Qwen2.5-7B) and of LLaDA-8B."""
ROWS = 4
TOKENS = SpecialTokens(0, 1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description="What fits into 8, 24 and 80 GiB.")
    bench.add_flags(parser)
    bench.add_sizes(parser, vocab=4096, width=512, layers=8, heads=8, mlp_width=1408, context=256)
    parser.add_argument("--length", type=int, default=1024, help="of the table: tokens of a row (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1, help="of the table: rows at once (default: %(default)s)")
    parser.add_argument("--only", default="", help="make the runs alone with this in their names")
    parser.add_argument("--alone", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    model = ModelConfig(args.vocab, **bench.sizes_of(args), context=args.context)
    if args.alone:  # before `begin`, which has glibc keep what nobody needs any more
        torch.set_num_threads(args.threads or torch.get_num_threads())
        print(measured(args.alone, model))
        return
    device, dtype = bench.begin(args)
    runs = []
    for name in WAYS:
        if args.only in name:
            runs.append(run(name, model, args.threads))
            print(f"{name}: x {runs[-1]['ratio']:.2f}", file=sys.stderr, flush=True)
    head = ["a run of a small model, MiB", "needed", "derived", "ratio"]
    bench.print_table(
        head, [[r["name"], f"{r['needed'] / MIB:.0f}", f"{r['derived'] / MIB:.0f}", f"{r['ratio']:.2f}"] for r in runs]
    )
    print()
    table = fits(args.rows, args.length)
    head = [f"GiB for {args.rows} x {args.length} tokens, in bfloat16", *MODELS]
    bench.print_table(
        head, [[r["name"], *(f"{one['gib']:.1f} ({one['card']})" for one in r["models"].values())] for r in table]
    )
    notes = [
        f"runs: {ROWS} rows of {args.context} tokens, float32, {Transformer(model).num_parameters():,} parameters",
        f"in parentheses the smallest card of {CARDS} GiB whose {ROOM:.0%} are enough; - = none of them",
        "weights are float32 in training, whatever the arithmetic; one device, nothing sharded",
    ]
    bench.finish(args.json, bench.machine(device, dtype), notes, runs=runs, fits=table)


def derived(model: ModelConfig, name: str, work: Work) -> float:
    """Bytes by the formulas; the small runs write without a cache."""
    cached = use(model, replace(work, dtype=WAYS[name].get("dtype", work.dtype)))["keys"]
    return needed(model, name, work) - (0.0 if "train" in WAYS[name] else cached)


def fits(rows: int, length: int) -> list[dict[str, Any]]:
    """Each use of each model: GiB, and the smallest card that has them."""

    def one(name: str, model: ModelConfig) -> dict[str, Any]:
        size = needed(model, name, Work(rows, length))
        return {"gib": size / GIB, "card": card_for(size) or "-"}

    return [{"name": name, "models": {size: one(name, model) for size, model in MODELS.items()}} for name in WAYS]


def run(name: str, model: ModelConfig, threads: int) -> dict[str, Any]:
    """What a process needs that does this alone."""
    sizes = ["width", "layers", "heads", "mlp_width", "context"]
    words = [part for size in sizes for part in (f"--{size.replace('_', '-')}", str(getattr(model, size)))]
    command = [sys.executable, __file__, "--alone", name, "--threads", str(threads), "--vocab", str(model.vocab_size)]
    back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is free goes back at once
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=True, env={**os.environ, **back})
    bytes_of = {"needed": int(done.stdout), "derived": derived(model, name, Work(ROWS, model.context, dtype="float32"))}
    return {"name": name, **bytes_of, "ratio": bytes_of["needed"] / bytes_of["derived"]}


def measured(name: str, model: ModelConfig) -> int:
    """Bytes, in this process."""
    nothing = replace(model, width=16, layers=1, heads=1, mlp_width=16, vocab_size=64, context=16)
    how = WAYS[name]
    for one in (nothing, model):
        work = train_it if "train" in how else write_it
        before = work(one, **how.get("train", {"name": name}))
    return resident() - before


def resident() -> int:
    """Bytes of the resident set at its largest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def train_it(model: ModelConfig, **how: Any) -> int:
    """Two steps; returns the resident set before."""
    before = resident()
    train = TrainConfig(
        steps=2,
        batch=ROWS,
        optimizer=how.get("optimizer", "adamw"),
        optimizer_state="8bit" if how.get("small") else "float32",
        ema=0.999 if how.get("average", True) else 0.0,
        dtype="float32",
        device="cpu",
    )
    recipe = Recipe(model=model, train=train, lora=LoraConfig(rank=how.get("rank", 0)))
    network = Transformer(model, never_written=(0, 2, 3), gradient_checkpointing=how.get("checkpointing", False))
    network.initialise(0)
    if recipe.lora.rank:
        add_adapters(network, recipe.lora, 0)
    state = State(network, build_optimisers(network, train), {}, Words(model))
    if train.ema:
        state.average = {name: weight.detach().clone() for name, weight in state.learned.items()}
    step = Step(recipe, BundleConfig(model, recipe.process, "full", 0, TOKENS, ""), state, 2)
    for _ in range(2):
        step()
    return before


class Words(Stream):
    """Rows of random tokens."""

    def __init__(self, model: ModelConfig):
        self.model = model

    def rows(self, count: int, rank: int = 0, world: int = 1) -> Batch:
        tokens_BL = torch.randint(4, self.model.vocab_size, (len(range(rank, count, world)), self.model.context))
        position_BL = torch.arange(self.model.context).expand_as(tokens_BL)
        return Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL > 0)


def write_it(model: ModelConfig, name: str) -> int:
    """Load a bundle and run it once; returns the resident set before that."""
    with tempfile.TemporaryDirectory() as folder:
        kind = WAYS[name].get("kind", "")
        probe = "import sys, pathlib, json; sys.path.insert(0, sys.argv[1]); import memory; from sfumato.config import "
        probe += (
            "ModelConfig; memory.save(pathlib.Path(sys.argv[2]), ModelConfig(**json.loads(sys.argv[3])), sys.argv[4])"
        )
        words = [str(Path(__file__).parent), folder + "/model", json.dumps(vars(model)), kind]
        subprocess.run([sys.executable, "-c", probe, *words], check=True)  # its memory is not ours
        before = resident()
        dtype = torch.bfloat16 if WAYS[name].get("dtype") == "bfloat16" else torch.float32
        network = Bundle.load(Path(folder) / "model", dtype=dtype).denoiser
        tokens_BL = torch.randint(4, model.vocab_size, (ROWS, model.context))
        where = Where(torch.arange(model.context).expand_as(tokens_BL), torch.zeros_like(tokens_BL), None)
        with torch.inference_mode():
            network.readout(network.encode(tokens_BL, where=where, layout=Full())[:, -1])
    return before


def save(folder: Path, model: ModelConfig, kind: str) -> None:
    """Write a bundle of random weights."""
    config = BundleConfig(model, ProcessConfig(), "full", 0, TOKENS, hashlib.sha256(b"{}").hexdigest())
    bundle = Bundle(config, Transformer(model).initialise(0), "{}")
    (quantised(bundle, kind, group=16) if kind else bundle).save(folder, torch.bfloat16)


if __name__ == "__main__":
    main()
