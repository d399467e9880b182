"""What the doctor looks at, and what it finds."""

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "warn", "fail"]

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    verdict: Verdict = "ok"
    advice: str = ""
    """What to do, in plain words; empty where all is well."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The same for programs: bytes, seconds, FLOP a second, ..."""


@dataclass(frozen=True)
class Check:
    """Something to look at, in a process of its own."""

    section: str
    title: str
    """What is said while it runs, and where it comes to nothing."""
    function: str
    """module:name of a function that yields findings; it is called with the arguments."""
    limit: float
    """Seconds after which it has failed."""
    arguments: dict[str, Any] = field(default_factory=dict)


def judged(good: bool, what: str, found: str, advice: str, worse: Verdict = "warn", **figures: Any) -> Finding:
    """A finding that is ok, or else carries advice."""
    return Finding(what, found, figures=figures) if good else Finding(what, found, worse, advice, figures)


def size(number: float) -> str:
    """Bytes for people."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} B"


def rate(number: float) -> str:
    """Bytes a second for people, in the decimal units of data sheets."""
    return f"{number / 1e9:.1f} GB/s" if number >= 1e9 else f"{number / 1e6:.0f} MB/s"


def flops(number: float) -> str:
    """Floating-point operations a second for people."""
    return f"{number / 1e12:.1f} TFLOP/s" if number >= 1e12 else f"{number / 1e9:.0f} GFLOP/s"
