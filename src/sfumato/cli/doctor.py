"""`sfumato doctor`: whether this machine is fit for work, and what to do where it is not."""

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TextIO

from sfumato.config import option, parse

if TYPE_CHECKING:
    from typing import Self

    from sfumato.doctor.finding import Check, Finding

_SIGNS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    quick: bool = option(False, "leave out how fast the machine computes, and the self-test; a few seconds")
    runs: str = option("runs", "the folder that training will write to")
    cache: str = option("", "the folder of the tokenised cache; empty means $SFUMATO_CACHE or ~/.cache/sfumato")
    json: bool = option(False, "write JSON, and nothing else, to standard output")


def run(words: list[str], out: TextIO) -> int:
    """Look at everything and tell; the code is 1 where something failed."""
    about = (
        "Look at the hardware, the software, the environment, the folders and the speed of this machine, and let the "
        "package test itself, in about a minute. Under torchrun, all ranks take part. Exit code 1: something failed."
    )
    options = parse(Options, words, "sfumato doctor", about)
    from sfumato.doctor.examination import examination, together

    cache = options.cache or os.environ.get("SFUMATO_CACHE") or "~/.cache/sfumato"
    begin, found = time.monotonic(), []
    if together(os.environ) and os.environ["RANK"] != "0":
        return _of_another_rank(examination(os.environ, options.runs, cache))
    with Page(out, options.json) as page:
        for check, finding in examination(os.environ, options.runs, cache, quick=options.quick, begun=page.begun):
            page.show(check, finding)
            found.append((check, finding))
    seconds = time.monotonic() - begin
    counts = {verdict: sum(one.verdict == verdict for _, one in found) for verdict in _SIGNS}
    if options.json:
        told = [{"section": check.section, **asdict(finding)} for check, finding in found]
        print(json.dumps({**counts, "seconds": round(seconds, 1), "findings": told}), file=out)
    else:
        warnings = f"{counts['warn']} warning{'s' * (counts['warn'] != 1)}"
        print(f"\n{counts['ok']} ok, {warnings}, {counts['fail']} failed, in {seconds:.0f} s", file=out)
    return int(counts["fail"] > 0)


def _of_another_rank(findings: "Iterable[tuple[Check, Finding]]") -> int:
    """Rank 0 tells what all found together; the others tell where they could not even take part."""
    failed = [finding for _, finding in findings if finding.verdict == "fail"]
    for finding in failed:
        print(f"rank {os.environ['RANK']}: {finding.what}: {finding.found}", file=sys.stderr)
    return int(bool(failed))


class Page:
    """The report as it grows, section by section, and under it what is looked at now; as JSON only the latter."""

    def __init__(self, out: TextIO, as_json: bool):
        from rich.console import Console

        self._shown, self._section = not as_json, ""
        self._console = Console(stderr=True) if as_json else Console(file=out, highlight=False, markup=False)
        self._status = self._console.status("starting")

    def __enter__(self) -> "Self":
        self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def begun(self, check: "Check") -> None:
        """This is looked at from now on."""
        self._status.update(f"{check.section.lower()}: {check.title}")

    def show(self, check: "Check", finding: "Finding") -> None:
        """One line, and its advice below."""
        if not self._shown:
            return
        from rich.table import Table
        from rich.text import Text

        if check.section != self._section:
            self._section = check.section
            self._console.print(Text(f"\n{check.section}", "bold"))
        sign, style = _SIGNS[finding.verdict]
        line = Table.grid(padding=(0, 1))
        line.add_column(width=4)
        line.add_column(width=24)
        line.add_column(overflow="fold")
        line.add_row(Text(sign, style), finding.what, finding.found)
        if finding.advice:
            line.add_row("", "", Text(finding.advice, style))
        self._console.print(line)
