"""Records a second of bulk generation and scoring: one process beside 1, 2, ... actors of Ray, and whether they agree.

    python benchmarks/bulk_cluster.py --model tiny --records 256 --replicas 1 2

Each contestant works through a short and a long input, as a command of its own. The difference is the work, the rest is
starting: Python, the model, the actors. One Ray is started for all of them, and that is no part of their time. Each
takes all cores that it is given: the one process every core, N actors an N-th each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench

from sfumato.cluster import connected

PROMPTS = ("Once upon a time", "One day, a little girl", "The cat was", "Tim and his dog", "In the old house")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="bundle or name (default: %(default)s)")
    parser.add_argument("--records", type=int, default=256, help="of the long input; 4 times the short one's")
    parser.add_argument("--max-tokens", type=int, default=48, help="of a text (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="texts written at a time (default: %(default)s)")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="numbers of actors (default: 1 2)")
    bench.add_flags(parser)
    return parser.parse_args()


def timed(words: list[str], args: argparse.Namespace, address: str) -> float:
    """Seconds of a command."""
    where = ["--device", args.device, "--dtype", args.dtype, "--json"]
    start = time.perf_counter()
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(args.threads)} if args.threads else {})}
    environment |= {"RAY_ADDRESS": address} if address else {}
    done = subprocess.run([sys.executable, "-m", "sfumato", *words, *where], capture_output=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return time.perf_counter() - start


def agreement(task: str, one: Path, other: Path) -> str:
    """How the outputs of two contestants compare."""
    pairs = list(zip(*(map(json.loads, path.read_text().splitlines()) for path in (one, other)), strict=True))
    if task == "generate":
        return f"{sum(a['text'] == b['text'] for a, b in pairs)}/{len(pairs)} equal"
    apart = [abs(a["likelihood"]["nats"] / b["likelihood"]["nats"] - 1) for a, b in pairs]
    return f"within {max(apart):.0e}"


def measure(args: argparse.Namespace, folder: Path, address: str) -> list[dict[str, Any]]:
    """All contestants on both tasks."""
    inputs = {count: folder / f"{count}.jsonl" for count in (max(1, args.records // 4), args.records)}
    for count, path in inputs.items():
        prompts = [{"prompt": f"{PROMPTS[i % len(PROMPTS)]} {i}"} for i in range(count)]
        path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    texts = {count: folder / f"generate-0-{count}.jsonl" for count in inputs}
    tasks = {
        "generate": (inputs, ["--model", args.model, "--max-tokens", str(args.max_tokens), "--batch", str(args.batch)]),
        "likelihood": (texts, ["--model", args.model]),
    }
    found = []
    for task, (sources, words) in tasks.items():
        for replicas in (0, *args.replicas):
            seconds, same = [], ""
            for count, source in sources.items():
                out = folder / f"{task}-{replicas}-{count}.jsonl"
                flags = [
                    "--input",
                    str(source),
                    "--output",
                    str(out),
                    *(["--replicas", str(replicas)] * bool(replicas)),
                ]
                seconds.append(timed([task, *words, *flags], args, address if replicas else ""))
                same = agreement(task, folder / f"{task}-0-{count}.jsonl", out)
            work = (seconds[1] - seconds[0]) / (args.records - max(1, args.records // 4))
            found.append({"task": task, "replicas": replicas, "seconds": seconds, "records_per_second": 1 / work})
            found[-1] |= {"start": seconds[1] - work * args.records, "same": same}
    return found


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    device, dtype = bench.begin(args)
    about = bench.machine(device, dtype)
    with tempfile.TemporaryDirectory() as folder, connected("bulk_cluster") as ray:
        found = measure(args, Path(folder), ray.get_runtime_context().gcs_address)
    rows = []
    for one in found:
        alone = next(other for other in found if other["task"] == one["task"] and not other["replicas"])
        who = f"{one['replicas']} actors" if one["replicas"] else "one process"
        ratio = one["records_per_second"] / alone["records_per_second"]
        rate = f"{one['records_per_second']:.1f}"
        rows.append([f"{one['task']}, {who}", rate, f"{ratio:.2f}", f"{one['start']:.1f}", one["same"]])
    bench.print_table(["", "records/s", "against one", "start (s)", "against one process"], rows)
    bench.finish(args.json, about, [], results=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
