"""What is installed, and whether it is what this package was made for."""

import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata

from sfumato.doctor.finding import Finding, judged

_DEVELOPERS = ("dev", "docs")  # extras that no user needs
_OPERATORS = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def interpreter() -> Iterator[Finding]:
    """Python and this package."""
    yield judged(
        sys.version_info >= (3, 11),
        "Python",
        f"{platform.python_version()}, {sys.executable}",
        "sfumato needs Python 3.11 or newer",
    )
    yield Finding("sfumato", metadata.version("sfumato"))


def torch_itself() -> Iterator[Finding]:
    """Whether torch loads, how long that takes, and what it was built with."""
    begin = time.monotonic()
    import torch

    seconds = time.monotonic() - begin
    parts: list[str] = [str(torch.__version__)]
    if torch.version.cuda:
        parts.append(f"CUDA {torch.version.cuda}")
    if getattr(torch.version, "hip", None):
        parts.append(f"ROCm {torch.version.hip}")
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        parts.append("NCCL " + ".".join(map(str, torch.cuda.nccl.version())))
    if torch.backends.mkldnn.is_available():
        parts.append(f"oneDNN, {torch.backends.cpu.get_cpu_capability()}")
    slow = "torch takes long to load: install it on a local disk, not on a network file system"
    yield judged(seconds < 20, "torch", f"{', '.join(parts)}; loaded in {seconds:.1f} s", slow, seconds=seconds)
    if not torch.distributed.is_available():
        yield Finding("torch", "built without torch.distributed", "warn", "training runs in one process only")


def packages() -> Iterator[Finding]:
    """What the package needs, and its extras: versions where present, the pip command where not."""
    return compare(metadata.requires("sfumato") or [])


def compare(requirements: Iterable[str]) -> Iterator[Finding]:
    """Requirements, as the metadata of a package lists them, against what is installed."""
    rooms: dict[str, list[tuple[str, str]]] = {}
    for line in requirements:
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;.*extra\s*==\s*[\"']([\w-]+)[\"'])?", line)
        if match:
            rooms.setdefault(match[3] or "", []).append((match[1], match[2].strip(" ()")))
    absent = []
    for extra, wanted in rooms.items():
        if extra in _DEVELOPERS:
            continue
        found = {name: _installed(name) for name, _ in wanted}
        missing = [name for name, version in found.items() if version is None]
        if missing and not extra:
            yield Finding("packages", f"missing: {', '.join(missing)}", "fail", "pip install sfumato")
        elif missing:
            absent.append(extra)
        for name, range_ in wanted:
            version = found[name]
            if version and not satisfies(version, range_):
                advice = f"pip install '{name}{range_}'"
                yield Finding(name, f"{version}, made for {range_}", "warn", advice)
        if not missing:
            text = ", ".join(f"{name} {version}" for name, version in found.items())
            yield Finding(extra and f"extra {extra}" or "packages", text)
    for extra in absent:
        yield Finding(f"extra {extra}", f"not installed; if needed: pip install 'sfumato[{extra}]'")


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version lies in a range such as `>=2.11,<2.14`; what cannot be read counts as yes."""
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|<|>)\s*([\d.]+)", part)
        if match:
            a, b = _numbers(version), _numbers(match[2])
            length = max(len(a), len(b))
            if not _OPERATORS[match[1]](a + [0] * (length - len(a)), b + [0] * (length - len(b))):
                return False
    return True


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in match[0].split(".")] if match else []


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
