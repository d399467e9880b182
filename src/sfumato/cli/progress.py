"""Progress on standard error: a live bar in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EVERY = 10.0  # seconds between lines where there is no terminal


class Bar:
    """Something that has so many parts, of which some are done."""

    def __init__(self, live: Any, lines: bool):
        """Start with nothing to do.

        Args:
            live: a rich `Progress`.
            lines: print a line every few seconds, since the bar itself is not drawn.
        """
        self._live, self._lines = live, lines
        self._task = live.add_task("", total=None, detail="", visible=False)
        self._printed = time.monotonic()
        self.begin("")

    @property
    def total(self) -> int:
        """How much there is to do; 0 = nobody knows."""
        return self._total

    def begin(self, title: str, total: int = 0, done: int = 0) -> None:
        """Start on another thing; total 0 = nobody knows how much there is."""
        self._title, self._total, self._first, self._begun = title, total, done, time.monotonic()
        self._live.reset(
            self._task, total=total or None, completed=done, description=title, detail="", visible=bool(title)
        )

    def show(self, done: int, detail: str = "") -> None:
        """So much is done, and what else there is to say."""
        if self._total:
            passed = time.monotonic() - self._begun
            left = passed * (self._total - done) / max(1, done - self._first)
            detail = f"{detail}  {clock(left)} left".lstrip()
        self._live.update(self._task, completed=done, detail=detail)
        if self._lines and time.monotonic() - self._printed >= EVERY:
            of = f" {done}/{self._total}" if self._total else ""
            self.say(f"{self._title}{of}  {detail}")

    def say(self, line: str) -> None:
        """A line that stays."""
        self._printed = time.monotonic()
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(*, silent: bool = False) -> Iterator[Bar]:
    """A `Bar` for as long as the block runs; it leaves nothing behind but the lines that were said.

    Silent: not even these, since another process says them.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True, quiet=silent)
    drawn = (
        not silent and sys.stderr.isatty() and not console.is_dumb_terminal
    )  # FORCE_COLOR makes no terminal of a log file
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    live = Progress(*columns, console=console, transient=True, disable=not drawn, redirect_stdout=False)
    with live:
        yield Bar(live, lines=not drawn)


def clock(seconds: float) -> str:
    """A length of time, as people write it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
