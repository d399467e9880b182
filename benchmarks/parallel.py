"""Weak and strong scaling of the training step, and what its processes really send.

    python benchmarks/parallel.py --threads 1 --json parallel.json
    python benchmarks/parallel.py --device cuda --processes 1 2 4 8 --json parallel.json      # NCCL

Every run is a process group of its own, started by torchrun and measured over the same steps; runs are made in
interleaved rounds. Weak: each process has `--batch` rows, so that more of them take larger steps. Strong: all share
`--batch` rows, so that the loss must be that of one process. Efficiency is tokens/s over those that as many processes
would make if each were as fast as one alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import bench
import torch
from train_speed import learnable_corpus

from sfumato.config import ModelConfig, Recipe, TrainConfig
from sfumato.data.batches import Stream
from sfumato.model.bundle import BundleConfig, SpecialTokens
from sfumato.plan.cluster import Share
from sfumato.plan.counted import bytes_sent
from sfumato.plan.run import weights
from sfumato.plan.traffic import sent
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.denoising import network, new_state
from sfumato.train.flops import step_flops
from sfumato.train.memory import keep_buffers
from sfumato.train.parallel import joined
from sfumato.train.step import Step

TOKENS = SpecialTokens(Tokenizer.mask_id, Tokenizer.end_id, Tokenizer.pad_id, Tokenizer.start_id)
CLOSE = 1e-4  # how much the loss of a step may differ, of itself, when it is shared


@dataclass(frozen=True)
class Way:
    """How a step is made."""

    scaling: str
    processes: int
    shard: int
    """1 = each has a copy (DDP), 0 = all share one (FSDP2), between = groups share one (HSDP)."""

    @property
    def name(self) -> str:
        """For people."""
        how = {0: "FSDP2", 1: "DDP"}.get(self.shard, f"groups of {self.shard}")
        return f"{self.scaling}, {self.processes}" + (f", {how}" if self.processes > 1 else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_flags(parser)
    bench.add_sizes(parser, vocab=4096, width=256, layers=6, heads=4, mlp_width=704, context=256)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--batch", type=int, default=16, help="rows of a forward of one process (default: %(default)s)")
    parser.add_argument("--accumulate", type=int, default=1, help="forwards in a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="timed steps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--optimizer", default="adamw", choices=("muon", "adamw"), help="(default: %(default)s)")
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        return worker(args, Way(**json.loads(args.way)))
    device, dtype = bench.begin(args)
    every = list(ways(args.processes))
    runs: dict[Way, list[dict[str, Any]]] = {way: [] for way in every}
    for number in range(args.rounds):
        for way in every:
            runs[way].append(started(way))
            print(f"round {number + 1}: {way.name}", file=sys.stderr, flush=True)
    kinds = (device.type, str(dtype).removeprefix("torch."))
    rows = [row(way, runs, args, *kinds) for way in every]
    show(rows)
    notes = [
        f"{args.optimizer}, rows of {args.context} tokens, {args.batch} x {args.accumulate} of one process alone",
        "bytes: sent by a process in a step, counted at its connections, and by the formulas of sfumato plan",
    ]
    bench.finish(args.json, bench.machine(device, dtype), notes, rows=rows)
    wrong = [one["name"] for one in rows if not one["same_loss"]]
    if wrong:
        print(f"error: another loss than that of one process: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


def ways(counts: list[int]) -> Iterator[Way]:
    """All of them; one process alone first."""
    for scaling in ("weak", "strong"):
        yield Way(scaling, 1, 1)
        for count in counts:
            if count > 1:
                yield from (Way(scaling, count, shard) for shard in (1, 0, *([2] if count >= 4 else [])))


def started(way: Way) -> dict[str, Any]:
    """What the first process of a run found."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={way.processes}"]
    command = [sys.executable, *start, __file__, *sys.argv[1:], "--way", json.dumps(asdict(way))]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **os.environ}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def recipe_of(args: argparse.Namespace, way: Way, device: str, dtype: str) -> Recipe:
    """The same in all ways, but for the rows of a step."""
    train = TrainConfig(
        steps=1 << 30,
        batch=args.batch,
        accumulate=args.accumulate * (way.processes if way.scaling == "weak" else 1),
        optimizer=args.optimizer,
        warmup=1,
        decay=0.0,
        lr=1e-3,
        shard=way.shard,
        device=device,
        dtype=dtype,
    )
    return Recipe(model=ModelConfig(args.vocab, **bench.sizes_of(args), context=args.context), train=train)


def worker(args: argparse.Namespace, way: Way) -> int:
    """One process of a run; the first prints."""
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_buffers()
    device = bench.resolve_device(args.device)
    dtype = str(bench.resolve_dtype(args.dtype, device)).removeprefix("torch.")
    recipe = recipe_of(args, way, device.type, dtype)
    config = BundleConfig(recipe.model, recipe.process, "full", 0, TOKENS, "")
    with joined(recipe.train, device.type) as processes:
        corpus = learnable_corpus(args.vocab, 64 * args.batch * args.context)
        stream = Stream([corpus], [1.0], context=args.context, tokenizer=Tokenizer.train([], 263), seed=0)
        step = Step(recipe, config, new_state(recipe, network(recipe, config), stream), 1 << 30)
        watch = bench.Stopwatch(device)
        losses = [step()["loss"] for _ in range(2)]  # the second makes what DDP and FSDP make at their first
        processes.wait()
        time.sleep(0.1)  # until what is on its way has been sent
        before, start = bytes_sent(), watch.now()
        losses += [step()["loss"] for _ in range(args.steps)]
        seconds = watch.now() - start
        processes.wait()
        time.sleep(0.1)
        after = bytes_sent()
        counted = None if before is None or after is None or device.type == "cuda" else (after - before) / args.steps
        found = processes.gathered(counted)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        if found:
            flops = step_flops(recipe, config, step.process, device.type).model
            tokens = recipe.train.batch * recipe.train.accumulate * args.context
            result = {"losses": losses, "seconds": seconds / args.steps, "tokens": tokens, "flops": flops}
            print(json.dumps(result | {"sent": found, "memory": peak}))
    return 0


def row(
    way: Way, runs: dict[Way, list[dict[str, Any]]], args: argparse.Namespace, device: str, dtype: str
) -> dict[str, Any]:
    """What is said of a way, beside one process alone."""
    mine, alone = runs[way], runs[Way(way.scaling, 1, 1)]
    rates, single = ([one["tokens"] / one["seconds"] for one in found] for found in (mine, alone))
    efficiency = [rate / (way.processes * base) for rate, base in zip(rates, single, strict=True)]
    recipe = recipe_of(args, way, device, dtype)
    share, backend = Share.of(recipe.train, way.processes), "nccl" if device == "cuda" else "gloo"
    theory = sum(sent(weights(recipe.model, recipe.train, dtype), share, backend).values())
    counted = [one for one in mine[0]["sent"] if one is not None]
    close = abs(mine[0]["losses"][-1] / alone[0]["losses"][-1] - 1) < CLOSE
    return {
        "name": way.name,
        **asdict(way),
        "tokens_per_second": bench.spread(rates),
        "flops": bench.spread([one["flops"] / one["seconds"] for one in mine]),
        "efficiency": bench.spread(efficiency),
        "loss_first": mine[0]["losses"][0],
        "loss_last": mine[0]["losses"][-1],
        "same_loss": close or way.scaling == "weak",
        "bytes_counted": max(counted, default=None),
        "bytes_theory": theory,
        "memory": mine[0]["memory"],
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    head = ["", "tokens/s", "efficiency", "loss: first, last", "MB sent a step", "by the formula", "ratio"]
    table = []
    for one in rows:
        counted, theory = one["bytes_counted"], one["bytes_theory"]
        ratio = f"{counted / theory:.3f}" if counted and theory else "-"
        shown = "-" if counted is None else f"{counted / 1e6:.2f}"
        losses = f"{one['loss_first']:.4f}, {one['loss_last']:.4f}"
        efficiency = bench.shown(one["efficiency"], ".2f")
        rate = bench.shown(one["tokens_per_second"])
        table.append([one["name"], rate, efficiency, losses, shown, f"{theory / 1e6:.2f}", ratio])
    bench.print_table(head, table)


if __name__ == "__main__":
    raise SystemExit(main())
