"""What a container allows this process, where Linux keeps it: control groups, version 2 and 1.

Sources: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max, memory.max) and cgroup-v1/ (cpu.cfs_quota_us,
memory.limit_in_bytes). A limit of any group that a process is in, or of a parent of it, counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_NONE = 2**60  # version 1 writes a number near 2^63 where there is no limit


@dataclass(frozen=True)
class Limits:
    """The tightest ones; None = none."""

    cores: float | None
    memory: int | None
    """Bytes."""


def limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limits:
    """The limits of this process.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's groups.
    """
    cores, memory = [], []
    for folder in _folders(root, own):
        quota, period = (_words(folder / "cpu.max") + ["", ""])[:2]
        if not quota:
            quota, period = ("".join(_words(folder / name)[:1]) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit():
            cores.append(int(quota) / int(period))
        for name in ("memory.max", "memory.limit_in_bytes"):
            memory += [int(word) for word in _words(folder / name)[:1] if word.isdigit() and int(word) < _NONE]
    return Limits(min(cores, default=None), min(memory, default=None))


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Each group of the process and its parents; in a container that sees only its own group, that is the root."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = root / controllers if controllers else root
        inside = PurePosixPath(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if ".." not in part.parts and (folder := mount / part).is_dir():
                yield folder


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
