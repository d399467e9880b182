"""The process that checks run in.

It reads a check as one line of JSON from standard input, writes each finding as a line of JSON to standard output, then
`null`, and waits for the next check, until there are no more. A crash or a hang ends this process and not the doctor.
"""

import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TextIO

from sfumato.doctor.finding import Finding


def main() -> None:
    """Serve until standard input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not look like a finding
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        asked = json.loads(line)
        for finding in _run(asked["function"], asked["arguments"], asked["title"]):
            _say(asdict(finding), out)
        _say(None, out)


def _run(function: str, arguments: dict[str, Any], title: str) -> Iterator[Finding]:
    module, _, name = function.partition(":")
    try:
        yield from getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:  # of any kind: telling what is broken is what we are for
        said = " ".join(str(error).split())
        yield Finding(title, f"{type(error).__name__}: {said}"[:300].rstrip(": "), "fail", "see the error")


def _say(message: Any, out: TextIO) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()
