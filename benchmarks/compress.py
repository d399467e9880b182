"""Smaller models beside the original: quality, memory and speed of each way to compress it; and of its products.

    python benchmarks/compress.py --data recipes/data/tinystories.jsonl.xz --threads 1 --json compress.json

Each line is one `sfumato compress`: its quality is the paired difference on held-out text under the same noise, its
speed that of both models writing the same texts in turn. The products at the end are those of a matrix of 1408 x 512
with so many positions, ours beside torchao's where that is installed, in interleaved rounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import torch
from torch import nn

from sfumato.compress.rounding import put_nearest
from sfumato.model.quantised import like

MIB = 2**20
WAYS = {
    "int8": "--quantise int8",
    "dynamic": "--quantise dynamic",
    "int4, to the nearest": "--quantise int4 --calibration 0",
    "int4, calibrated": "--quantise int4",
    "3/4, not healed": "--parameters 0.75",
    "3/4, healed": "--parameters 0.75 --heal-tokens {heal}",
    "1/2, not healed": "--parameters 0.5",
    "1/2, healed": "--parameters 0.5 --heal-tokens {heal}",
}
POSITIONS = (16, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description="Smaller models beside the original.")
    bench.add_flags(parser)
    parser.add_argument("--data", required=True, help="text of the model's kind; a part of it is held out")
    parser.add_argument("--model", default="tiny", help="(default: %(default)s)")
    parser.add_argument("--heal", type=int, default=100_000, help="tokens of healing (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=24, help="rows (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=24, help="rows (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=8, help="that both write (default: %(default)s)")
    parser.add_argument("--only", default="", help="the ways alone with this in their names")
    args = parser.parse_args()
    device, dtype = bench.begin(args)
    found = []
    for name, flags in WAYS.items():
        if args.only in name:
            found.append(one(args, name, flags.format(heal=args.heal)))
            print(" | ".join(cells(found[-1])), flush=True)
    print()
    bench.print_table(
        ["way", "parameters", "bits/byte", "change", "disk MiB", "memory MiB", "peak MiB", "tokens/s", "seconds"],
        [cells(row) for row in found],
    )
    rates = products(device)
    print()
    bench.print_table(
        ["product, ms", *(f"{n} positions" for n in POSITIONS)],
        [[name, *(bench.shown(ms[str(n)], ".3f") for n in POSITIONS)] for name, ms in rates.items()],
    )
    notes = ["change: paired, +- a standard error; x: against the original, in the same run"]
    bench.finish(args.json, bench.machine(device, dtype), notes, ways=found, products=rates)


def one(args: argparse.Namespace, name: str, flags: str) -> dict[str, Any]:
    """What `sfumato compress --json` says, and how long it took."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "sfumato", "compress", args.model, str(Path(folder) / "out"), "--json"]
        words += ["--data", args.data, "--rows", str(args.held_out), "--n", str(args.texts)]
        words += [] if "--calibration" in flags else ["--calibration", str(args.calibration)]
        done = subprocess.run([*words, *flags.split()], stdout=subprocess.PIPE, text=True, check=True)
    return {"way": name, **json.loads(done.stdout), "seconds": time.perf_counter() - begun}


def cells(row: dict[str, Any]) -> list[str]:
    """A line of the table."""
    old, new, bits = row["original"], row["compressed"], row["quality"]["bits_per_byte"]

    def beside(key: str, unit: float = 1.0, form: str = ",.1f") -> str:
        return f"{new[key] / unit:{form}} (x {new[key] / old[key]:.2f})"

    return [
        row["way"],
        f"{new['parameters']:,}",
        f"{bits['original']:.4f} -> {bits['compressed']:.4f}",
        f"{bits['difference']:+.4f} +- {bits['stderr']:.4f}",
        *(beside(f"{name}_bytes", MIB) for name in ("disk", "memory", "peak")),
        beside("tokens_per_second", form=",.0f"),
        f"{row['seconds']:.0f}",
    ]


def products(device: torch.device) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds of a product with each kind of matrix."""
    whole = nn.Linear(512, 1408, bias=False).to(device).eval().requires_grad_(False)
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"float32": whole}
    for kind in ("int8", "dynamic", "int4"):
        matrix = like(whole, "weight", kind, 32)
        put_nearest(matrix, whole.weight)
        ways[f"ours, {kind}"] = matrix.float()
    ways |= theirs(whole)
    inputs = {n: torch.randn(n, 512, device=device) for n in POSITIONS}
    seconds: dict[str, dict[str, list[float]]] = {name: {str(n): [] for n in POSITIONS} for name in ways}
    watch = bench.Stopwatch(device)
    with torch.inference_mode():
        for round_ in range(8):
            for name, way in ways.items():
                for n, x in inputs.items():
                    start = watch.now()
                    for _ in range(5):
                        way(x)
                    if round_:  # the first one warms up
                        seconds[name][str(n)].append((watch.now() - start) / 5 * 1e3)
    return {name: {n: bench.spread(values) for n, values in part.items()} for name, part in seconds.items()}


def theirs(whole: nn.Linear) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The same matrix by torchao; nothing where it is not installed."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
    except ImportError:
        return {}
    found: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    for name, config in (("int8", Int8WeightOnlyConfig()), ("dynamic", Int8DynamicActivationInt8WeightConfig())):
        network = nn.Sequential(nn.Linear(512, 1408, bias=False)).to(whole.weight).eval().requires_grad_(False)
        quantize_(network, config)
        found[f"torchao, {name}"] = network
    return found


if __name__ == "__main__":
    main()
