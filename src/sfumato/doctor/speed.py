"""How fast memory and matrix products are, measured in a second or two each."""

import time
from collections.abc import Callable, Iterator

import torch

from sfumato.doctor.finding import MIB, Finding, flops, judged, rate
from sfumato.train.devices import measured_flops, peak_flops

_PERIOD = 0.3  # seconds that a measurement repeats for
_RATES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def seconds(work: Callable[[], object], device: torch.device, period: float = _PERIOD) -> float:
    """The best time of one call: the first one warms up, and others follow for about `period` seconds."""
    best, end = float("inf"), time.perf_counter() + period
    work()
    while best == float("inf") or time.perf_counter() < end:
        _wait(device)
        begin = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - begin)
    return best


def memory_copy() -> Iterator[Finding]:
    """Bytes a second of a copy in main memory, counted once though they are read and written."""
    source = torch.ones(128 * MIB, dtype=torch.uint8)
    target = torch.empty_like(source)
    speed = source.numel() / seconds(lambda: target.copy_(source), torch.device("cpu"))
    advice = "writing texts is bound by memory: other programs may be using it, or the machine is throttled"
    yield judged(speed > 1e9, "memory copy", rate(speed), advice, bytes_per_second=speed)


def host_and_device() -> Iterator[Finding]:
    """Copies between main memory and each CUDA device, from pinned memory."""
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        here = torch.ones(256 * MIB, dtype=torch.uint8).pin_memory()
        there = torch.empty_like(here, device=device)
        up = here.numel() / seconds(lambda a=here, b=there: b.copy_(a, non_blocking=True), device)
        down = here.numel() / seconds(lambda a=here, b=there: a.copy_(b, non_blocking=True), device)
        inside = here.numel() / seconds(lambda b=there: b.clone(), device)
        said = f"to it {rate(up)}, from it {rate(down)}, inside {rate(inside)}"
        advice = "slow for PCIe: see that the card sits in a full slot (nvidia-smi -q, Link Width)"
        figures = {"to": up, "from": down, "inside": inside}
        yield judged(min(up, down) > 4e9, f"copies to GPU {index}", said, advice, **figures)


def products() -> Iterator[Finding]:
    """Matrix products on the CPU and on each GPU, in float32 and bfloat16."""
    yield from _products("CPU", torch.device("cpu"), 1024)
    for index in range(torch.cuda.device_count()):
        yield from _products(f"GPU {index}", torch.device("cuda", index), 8192)
    if torch.backends.mps.is_available():
        yield from _products("GPU", torch.device("mps"), 2048)


def _products(where: str, device: torch.device, size: int) -> Iterator[Finding]:
    found = {}
    for dtype, name in _RATES.items():
        small = device.type == "cpu" and dtype is torch.bfloat16  # may be emulated, and then it is 100 times slower
        found[name] = speed = measured_flops(device, dtype, size // 4 if small else size, _PERIOD)
        if small and speed > found["float32"] / 4:
            found[name] = speed = measured_flops(device, dtype, size, _PERIOD)
        yield rated(f"{name} on the {where}", speed, peak_flops(device, dtype))
    worse, better = sorted(found, key=lambda name: found[name])
    said = f"{better} is {found[better] / found[worse]:.1f} times as fast as {worse}; --dtype auto finds that out"
    yield Finding(f"precision on the {where}", said)


def rated(what: str, speed: float, peak: float | None) -> Finding:
    """A rate of products beside the one that the card is sold with, where that is known."""
    said = flops(speed) + (f", {speed / peak:.0%} of the {flops(peak)} that are published" if peak else "")
    advice = "less than half of what the card can do: see its clocks and who else uses it (nvidia-smi)"
    return judged(not peak or speed > 0.5 * peak, what, said, advice, flops=speed, peak=peak)


def threads(cores: float | None = None) -> Iterator[Finding]:
    """How many threads are fastest for a small network, against how many torch takes."""
    from sfumato.doctor.hardware import available_cores

    cores, taken = cores or available_cores(), torch.get_num_threads()
    tried = {1, taken, max(1, int(cores))} | {2**n for n in range(1, 8) if 2**n < cores}
    times = {}
    for count in sorted(tried):
        torch.set_num_threads(count)
        times[count] = _small_step()
    torch.set_num_threads(taken)
    yield chosen_threads(times, taken)


def chosen_threads(times: dict[int, float], taken: int) -> Finding:
    """What times by number of threads say about the number that torch takes."""
    best = min(times, key=lambda count: times[count])
    said = ", ".join(f"{count}: {1e3 * time_:.1f} ms" for count, time_ in times.items())
    few = "1 thread is" if best == 1 else f"{best} threads are"
    advice = f"{few} fastest here, torch takes {taken}: set OMP_NUM_THREADS={best}, or --train.threads {best}"
    figures = {"seconds": {str(count): time_ for count, time_ in times.items()}, "taken": taken, "best": best}
    good = times[taken] <= 1.25 * times[best]
    return judged(good, "threads", f"{taken} taken; a layer by threads: {said}", advice, **figures)


def _small_step() -> float:
    """Seconds of the products of a layer of width 256 for 2048 tokens, forward and back."""
    x = torch.randn(2048, 256, requires_grad=True)
    up, down = torch.randn(256, 704), torch.randn(704, 256)
    return seconds(lambda: (torch.nn.functional.silu(x @ up) @ down).sum().backward(), torch.device("cpu"))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
