"""The machine: processors, memory, graphics cards."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sfumato.doctor.cgroup import limits
from sfumato.doctor.finding import GIB, Finding, judged, size

_UNITS = {  # flag in /proc/cpuinfo -> its name, for what speeds up matrix products
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "AVX-512 bfloat16",
    "amx_bf16": "AMX bfloat16",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "bfloat16",
}


def available_cores() -> float:
    """Cores that this process may use: by the machine, its affinity and its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(float(count), limits().cores or float("inf"))


def available_memory() -> tuple[int, int | None]:
    """Bytes that this process may use (of the machine, or of the container where that is less), and bytes free."""
    found = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    total = found.get("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = limits().memory or total
    free = found.get("MemAvailable")
    return min(total, limit), None if free is None else min(free, limit)


def processors() -> Iterator[Finding]:
    """Name, cores, instruction sets."""
    from sfumato.evaluate.machine import cpu_name

    cores, present = available_cores(), os.cpu_count() or 1
    here = f"{cores:g} of {present} cores for this process" if cores < present else f"{present} cores"
    flags = set(_read("/proc/cpuinfo").partition("flags")[2].partition("\n")[0].split())
    flags |= set(_read("/proc/cpuinfo").partition("Features")[2].partition("\n")[0].split())
    units = [name for flag, name in _UNITS.items() if flag in flags]
    yield Finding("CPU", f"{cpu_name()}, {here}", figures={"cores": cores, "present": present, "units": units})
    if units:
        slow = platform.machine() == "x86_64" and "AVX2" not in units
        advice = "without AVX2 matrix products are several times slower: prefer another machine, or a virtual machine "
        yield judged(not slow, "instructions", ", ".join(units), advice + "that passes its host's CPU through")
    if hasattr(os, "getloadavg"):
        yield busy(os.getloadavg()[0], present)


def busy(load: float, cores: int) -> Finding:
    """What the load, the mean number of processes that want to compute, says about the measurements to come."""
    said = f"{load:.1f} processes want the {cores} cores (mean of a minute)"
    advice = "the machine is busy: what is measured below is slower than it could be, and more threads do not help"
    return judged(load < 1.5 * cores, "load", said, advice, load=load)


def memory() -> Iterator[Finding]:
    """Main memory, and the shared memory that processes exchange tensors through."""
    total, free = available_memory()
    left = "" if free is None else f", {size(free)} free"
    contained = limits().memory is not None
    yield judged(
        free is None or free > GIB,
        "memory",
        f"{size(total)}{' (limit of the container)' if contained else ''}{left}",
        "less than 1 GiB is free: end other programs, or use a smaller --train.batch",
        total=total,
        free=free,
    )
    shared = Path("/dev/shm")
    if shared.is_dir():
        space = shutil.disk_usage(shared).total
        yield judged(
            space >= GIB,
            "/dev/shm",
            size(space),
            f"/dev/shm is only {size(space)}, NCCL and Ray need more: docker run --shm-size 8g",
            bytes=space,
        )


def graphics() -> Iterator[Finding]:
    """Each card, whether they reach each other's memory, and whether torch can use what is there."""
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        if torch.backends.mps.is_available():
            yield Finding("GPU", "Apple, through Metal (mps)")
        elif driver:
            built = "is built without CUDA" if torch.version.cuda is None else f"(CUDA {torch.version.cuda}) cannot"
            advice = f"torch {torch.__version__} {built} use it: install a build for this driver, see pytorch.org"
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
            advice = "CUDA_VISIBLE_DEVICES hides it: unset that" if hidden else advice
            yield Finding("GPU", f"NVIDIA, driver {driver}, but torch finds none", "warn", advice)
        else:
            yield Finding("GPU", "none: everything runs on the CPU")
        return
    count = torch.cuda.device_count()
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{about.name}, {size(total)}, {size(free)} free, compute capability {about.major}.{about.minor}"
        yield judged(
            free > 0.1 * total,
            f"GPU {index}",
            text + (f", driver {driver}" if driver else ""),
            "another process fills its memory: see nvidia-smi, or choose a card with CUDA_VISIBLE_DEVICES",
            total=total,
            free=free,
            name=about.name,
        )
    if count > 1:
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        apart = [pair for pair in pairs if not torch.cuda.can_device_access_peer(*pair)]
        said = f"{len(pairs) - len(apart)} of {len(pairs)} pairs reach each other's memory (NVLink or PCIe)"
        advice = "the others copy through the host, which slows sharded training: see nvidia-smi topo -m"
        yield judged(not apart, "peer access", said, advice)


def _driver() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said[0] if said else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
