"""A file of prompts becomes a file of texts, line by line, and goes on where it stopped."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.sample.journal import Journal
from sfumato.sample.many import Asked, Many, Requests
from sfumato.sample.settings import Settings
from sfumato.sample.writing import Generation

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel

CARRIED = ("id", "metadata")  # keys of a line that mean nothing to us
ON_ERROR = ("stop", "skip")


@dataclass(frozen=True)
class Summary:
    """What a run over a file did."""

    lines: int
    """In the output now: one for each of the input."""
    resumed: int
    """Of these, lines that an earlier run had written."""
    errors: int
    """Of these, lines that could not be understood."""
    tokens: int
    """Written by this run."""
    nfe: float
    """Forward passes that a text of this run took part in, on average."""
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Line:
    """A line of the input."""

    where: str
    """file:number"""
    content: dict[str, Any]
    """Its keys and values."""
    asked: Asked | None
    error: str = ""
    """Why there is nothing to write."""


def write_file(
    model: "LanguageModel",
    source: str | Path,
    target: str | Path,
    *,
    batch: int = 8,
    on_error: str = "stop",
    about: str = "",
    progress: Callable[[int, int, int], None] | None = None,
    constraint: Any = None,
    guidance: Any = (),
    **defaults: Any,
) -> Summary:
    """Write a text for each line of a file.

    A line of the output holds the keys of its line of the input, and `text`, `completion`, `finish_reason`, `seed`,
    `nfe`, `tokens` (that were written) and `made`: a digest of the request, the settings and the model, by which a run
    that goes on knows its own lines. It holds nothing that depends on how fast the machine is or what `batch` is.

    Args:
        model: writes.
        source: JSON lines, each an object as `LanguageModel.generate_many` takes it, with `id` and `metadata` if
            wanted; or a `.txt` with a prompt a line. Blank lines are left out.
        target: JSON lines, in the same order. If it exists it must be the beginning of this very run, and is gone on
            with.
        batch: texts written at a time; changes speed and memory only.
        on_error: what happens where a line cannot be understood. stop: nothing is written at all; skip: the output
            says why under `error`, in its place.
        about: whatever else a text depends on, such as the constraint, in words.
        progress: told the lines done, their number, and the tokens that this run has written.
        constraint: as in `LanguageModel.generate_many`, like `guidance` and `defaults`.
        guidance: see there.
        defaults: see there.

    Raises:
        ValueError: a line that cannot be understood (`source:line: why`), or a `target` of another run or of one that
            is under way.
        OSError: a file that cannot be read or written.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error: expected {' or '.join(ON_ERROR)}, got {on_error!r}")
    if Path(source).exists() and Path(target).exists() and Path(source).samefile(target):
        raise ValueError(f"{target}: input and output are the same file; name another output")
    if Path(source).exists() and not Path(source).is_file():
        raise ValueError(f"{source}: expected a file, which is read twice, and no folder or pipe")
    requests, made = Requests(model.front, **defaults), _Maker(model, about)
    run = Many(model, requests.plan.settings, constraint=constraint, guidance=guidance)
    total = _count(Path(source), requests, run, on_error)
    start, waiting, tokens, nfe, texts = time.perf_counter(), deque[Line](), 0, 0, 0
    with Journal(target, "made") as journal:
        lines = _lines(Path(source), requests, run)
        done = resumed = _resume(journal, lines, made, total)
        errors = sum("error" in record for record in journal.there)

        def asked() -> Iterator[Asked]:
            for line in lines:
                waiting.append(line)
                if line.asked is not None:
                    yield line.asked

        def answer(generation: Generation | None) -> None:
            """Write down what was written, behind the lines without an answer that come before it."""
            nonlocal done, errors
            while waiting:
                line = waiting.popleft()
                text = {"error": line.error} if line.asked is None else _told(generation)
                journal.add({**line.content, **text, "made": made(line)})
                done, errors = done + 1, errors + (line.asked is None)
                if line.asked is not None:
                    return

        for generation in run.write(asked(), batch):
            answer(generation)
            tokens, nfe, texts = tokens + generation.stats.committed, nfe + generation.stats.nfe, texts + 1
            if progress:
                progress(done, total, tokens)
        answer(None)
    seconds = time.perf_counter() - start
    return Summary(done, resumed, errors, tokens, nfe / max(1, texts), round(seconds, 3), round(tokens / seconds, 1))


def _told(generation: Generation | None) -> dict[str, Any]:
    assert generation is not None
    return {
        "text": generation.text,
        "completion": generation.completion,
        "finish_reason": generation.finish_reason,
        "seed": generation.seed,
        "nfe": generation.stats.nfe,
        "tokens": generation.stats.committed,
    }


class _Maker:
    """Digests of what a line of the output was made from."""

    def __init__(self, model: "LanguageModel", about: str):
        version = model.front.version() if model.path else ""
        self.model = f"{version} {model.dtype} {about}"

    def __call__(self, line: Line) -> str:
        asked = line.asked
        parts: list[Any] = [self.model, line.content, line.error]
        if asked is not None:
            settings = {f.name: getattr(asked.plan.settings, f.name) for f in fields(Settings) if f.name != "seed"}
            parts += [asked.row.tokens, asked.row.editable, asked.row.limit, asked.seed, asked.stops, settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _resume(journal: Journal, lines: Iterator[Line], made: _Maker, total: int) -> int:
    """How many lines are done; the file holds the answers to the first of `lines`, or it is not ours to go on with."""
    for number, record in enumerate(journal.there, 1):
        line = next(lines, None)
        if line is None or record.get("made") != made(line):
            raise ValueError(
                f"{journal.path}:{number}: not what this run would write "
                + (f"for {line.where} (other settings, model or prompt?)" if line else f"for {total} lines of input")
                + "; name another output, or remove this one to begin anew"
            )
    return len(journal.there)


def _count(source: Path, requests: Requests, run: Many, on_error: str) -> int:
    """The lines of a file; the first broken one ends the run before it has begun."""
    count = 0
    for line in _lines(source, requests, run):
        if line.error and on_error == "stop":
            raise ValueError(f"{line.where}: {line.error}")
        count += 1
    if not count:
        raise ValueError(f"{source}: no prompts in it; expected one a line")
    return count


def _lines(source: Path, requests: Requests, run: Many) -> Iterator[Line]:
    number = 0  # of the request: its seed
    with source.open("rb") as file:
        for at, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            content: dict[str, Any] = {}
            try:
                content = _content(raw, plain=source.suffix == ".txt", first=at == 1)
                asked = requests.read({key: content[key] for key in content if key not in CARRIED}, number)
                run.check(asked)
                yield Line(f"{source}:{at}", content, asked)
            except ValueError as error:
                yield Line(f"{source}:{at}", content, None, str(error))
            number += 1


def _content(raw: bytes, *, plain: bool, first: bool) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    if plain:
        return {"prompt": text}
    try:
        content = json.loads(text)
        json.dumps(content, allow_nan=False)  # since the line of the output holds it
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON (a number that is NaN or infinite or too long, or too deep nesting)") from None
    if not isinstance(content, dict):
        raise ValueError(f'expected an object such as {{"prompt": "..."}}, got {text[:40]}')
    return content
