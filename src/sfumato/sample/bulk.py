"""Records of prompts become records of texts, one by one, and go on where they stopped."""

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.sample.journal import Journal, OtherRun
from sfumato.sample.many import Asked, Many, Requests
from sfumato.sample.records import Record, records_of
from sfumato.sample.settings import Settings
from sfumato.sample.writing import Generation

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel

MARK = "made"  # a key of every record of the output
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
    """A record of the input, understood."""

    record: Record
    asked: Asked | None
    error: str = ""
    """Why there is nothing to write."""


class Writer:
    """Writes a text for each record into a journal."""

    def __init__(
        self,
        model: "LanguageModel",
        *,
        batch: int = 8,
        on_error: str = "stop",
        about: str = "",
        constraint: Any = None,
        guidance: Any = (),
        **defaults: Any,
    ):
        """Writer for one model; the arguments are those of `write_file`.

        Raises:
            ValueError: a setting that cannot be used.
        """
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error: expected {' or '.join(ON_ERROR)}, got {on_error!r}")
        self._batch, self._on_error, self._made = batch, on_error, _Maker(model, about)
        self._requests = Requests(model.front, **defaults)
        self._run = Many(model, self._requests.plan.settings, constraint=constraint, guidance=guidance)

    def check(self, records: Iterable[Record]) -> int:
        """How many there are; the first that cannot be understood ends the run before it has begun (ValueError)."""
        return sum(1 for _ in self._lines(records))

    def __call__(
        self, records: Iterable[Record], journal: Journal, progress: Callable[[Counter[str]], None] | None = None
    ) -> Counter[str]:
        """Write what the journal lacks.

        Args:
            records: of which the journal holds the first ones' texts.
            journal: where the texts go, in order.
            progress: told after each text what has been done.

        Returns:
            How many `rows` the journal holds now, of these `resumed` ones that were there before and `errors`; and of
            this run `texts`, their `tokens` and `nfe`, all together.

        Raises:
            ValueError: a record that cannot be understood, or a journal of another run.
        """
        lines, waiting = self._lines(records), deque[Line]()
        _resume(journal, lines, self._made)
        done = counts(journal.there)

        def asked() -> Iterator[Asked]:
            for line in lines:
                waiting.append(line)
                if line.asked is not None:
                    yield line.asked

        def answer(generation: Generation | None) -> None:
            """Write down what was written, behind the lines without an answer that come before it."""
            while waiting:
                line = waiting.popleft()
                text = {"error": line.error} if line.asked is None else _told(generation)
                journal.add({**line.record.content, **text, MARK: self._made(line)})
                done.update(rows=1, errors=int(line.asked is None))
                if line.asked is not None:
                    return

        for generation in self._run.write(asked(), self._batch):
            answer(generation)
            done.update(texts=1, tokens=generation.stats.committed, nfe=generation.stats.nfe)
            if progress:
                progress(done)
        answer(None)
        return done

    def _lines(self, records: Iterable[Record]) -> Iterator[Line]:
        for record in records:
            line = self._line(record)
            if line.error and self._on_error == "stop":
                raise ValueError(f"{record.where}: {line.error}")
            yield line

    def _line(self, record: Record) -> Line:
        if record.error:
            return Line(record, None, record.error)
        try:
            known = {key: value for key, value in record.content.items() if key not in CARRIED}
            asked = self._requests.read(known, record.number)
            self._run.check(asked)
        except ValueError as error:
            return Line(record, None, str(error))
        return Line(record, asked)


def counts(there: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """What is to be known of records that an earlier run wrote, as `Writer` counts."""
    found: Counter[str] = Counter(rows=0, resumed=0, errors=0, texts=0, tokens=0, nfe=0)
    for record in there:
        found.update(rows=1, resumed=1, errors=int("error" in record))
    return found


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
    settings = {"batch": batch, "on_error": on_error, "about": about, "constraint": constraint, "guidance": guidance}
    writer = Writer(model, **settings, **defaults)
    if Path(source).exists() and Path(target).exists() and Path(source).samefile(target):
        raise ValueError(f"{target}: input and output are the same file; name another output")
    if Path(source).exists() and not Path(source).is_file():
        raise ValueError(f"{source}: expected a file, which is read twice, and no folder or pipe")
    total = writer.check(_records(Path(source)))
    if not total:
        raise ValueError(f"{source}: no prompts in it; expected one a line")
    start = time.perf_counter()

    def tell(done: Counter[str]) -> None:
        if progress:
            progress(done["rows"], total, done["tokens"])

    with Journal(target, MARK) as journal:
        done = writer(_records(Path(source)), journal, tell)
    return summary(done, time.perf_counter() - start)


def summary(done: Mapping[str, float], seconds: float) -> Summary:
    """What a run did, from what `Writer` counts."""
    rows, resumed, errors, tokens = (int(done.get(name, 0)) for name in ("rows", "resumed", "errors", "tokens"))
    nfe = done.get("nfe", 0) / max(1, done.get("texts", 0))
    return Summary(rows, resumed, errors, tokens, nfe, round(seconds, 3), round(tokens / seconds, 1))


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
        parts: list[Any] = [self.model, line.record.content, line.error]
        if asked is not None:
            settings = {f.name: getattr(asked.plan.settings, f.name) for f in fields(Settings) if f.name != "seed"}
            parts += [asked.row.tokens, asked.row.editable, asked.row.limit, asked.seed, asked.stops, settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _resume(journal: Journal, lines: Iterator[Line], made: _Maker) -> None:
    """Take the lines that are done; the journal holds the answers to the first of them, or it is not ours."""
    for number, there in enumerate(journal.there, 1):
        line = next(lines, None)
        if line is None or there.get(MARK) != made(line):
            what = f" for {line.record.where}" if line else f" for {number - 1} lines of input"
            raise OtherRun.at(f"{journal.path}:{number}", what)


def _records(source: Path) -> Iterator[Record]:
    with source.open("rb") as file:
        yield from records_of(file, str(source), "prompt" if source.suffix == ".txt" else "")
