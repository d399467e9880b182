"""What all benchmarks share: their common flags, the machine, a stopwatch, the table and the JSON file."""

import argparse
import datetime
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import sfumato
from sfumato.model.device import resolve_device, resolve_dtype
from sfumato.train.memory import keep_buffers


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every benchmark has."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")


def add_sizes(parser: argparse.ArgumentParser, **sizes: int) -> None:
    """Flags for the size of the network, and what it is unless they say otherwise."""
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, help="(default: %(default)s)")


def sizes_of(args: argparse.Namespace) -> dict[str, int]:
    """Those sizes, as fields of ModelConfig."""
    return {name: getattr(args, name) for name in ("width", "layers", "heads", "mlp_width")}


def existing_file(path: str) -> Path:
    """The path, if a file is there; for argparse."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"no such file: {path}")
    return Path(path)


def begin(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Apply the common flags; glibc keeps its buffers for everybody measured in this process, ours or not."""
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_buffers()
    device = resolve_device(args.device)
    return device, resolve_dtype(args.dtype, device)


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What a figure is worthless without."""
    about = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sfumato": sfumato.__version__,
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    return about


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if unit in found.get("flags", "").split()]
    return f"{found.get('model name', platform.machine())} ({' '.join(units)})"


class Stopwatch:
    """Adds up the seconds spent in some functions; on a GPU it must wait for it, so it can be switched off."""

    clock: Callable[[], float] = staticmethod(time.perf_counter)
    """What all of them read."""

    def __init__(self, device: torch.device):
        """Starts at 0, switched on where that costs nothing."""
        self.device, self.on, self.seconds = device, device.type == "cpu", 0.0

    def now(self) -> float:
        """The time at which everything asked for so far is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, with its time counted."""

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return call(*args, **kwargs)
            start = self.now()
            result = call(*args, **kwargs)
            self.seconds += self.now() - start
            return result

        return timed


class Probe:
    """Counts what a network is asked to do."""

    def __init__(self, device: torch.device):
        """Of one contestant."""
        self.watch = Stopwatch(device)
        self.forwards = self.positions = 0

    def count(self, tokens_BQ: torch.Tensor) -> None:
        """One forward over these tokens."""
        self.forwards += 1
        self.positions += tokens_BQ.numel()

    def clear(self) -> None:
        """Back to 0."""
        self.forwards = self.positions = 0
        self.watch.seconds = 0.0


def randomise(network: torch.nn.Module) -> None:
    """Matrices drawn anew, with a deviation of 1/sqrt(fan-in); the same for the same shapes."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)


def forget_compiled() -> None:
    """Drop what was compiled so far, and never fall back to eager silently where there are many shapes."""
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def compiled_graphs() -> int:
    """How many graphs have been compiled in this process since the last `forget_compiled`."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def product_rate(dtype: torch.dtype, device: torch.device, size: int, longest: float = 2.0) -> tuple[float, int]:
    """FLOP/s of a square matrix product, best of three, and its size.

    Args:
        dtype: of the two matrices.
        device: where.
        size: rows and columns; halved until a product takes at most `longest` seconds, which only an emulated
            precision needs.
        longest: seconds.
    """
    tried = min(size, 256)
    watch = Stopwatch(device)
    while True:
        a = torch.randn(tried, tried, device=device).to(dtype)
        repeats = 10 if device.type == "cuda" else 1
        seconds = []
        for _ in range(4):
            start = watch.now()
            for _ in range(repeats):
                a @ a
            seconds.append((watch.now() - start) / repeats)
        best = min(seconds[1:])
        if tried * 2 > size or best * 8 > longest:
            return 2 * tried**3 / best, tried
        tried *= 2


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, smallest and largest, to so many significant digits."""
    chosen = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.{digits}g}") for name, value in chosen.items()}


def shown(value: dict[str, float], form: str = ",.0f") -> str:
    """`median (min-max)`."""
    return f"{value['median']:{form}} ({value['min']:{form}}-{value['max']:{form}})"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Plain columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def finish(path: Path | None, about: dict[str, Any], notes: Sequence[str], **results: Any) -> None:
    """Print the machine and the notes; write everything to the JSON file if one was asked for."""
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items() if value is not None))
    for note in notes:
        print(f"note: {note}")
    if path:
        content = {"machine": about, "notes": list(notes), **results}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
