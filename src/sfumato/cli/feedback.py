"""`sfumato feedback`: look at what users thought of a model's texts, and export it."""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli import choose
from sfumato.config import ConfigError, argument, option, parse

if TYPE_CHECKING:
    from sfumato.store.feedback import FeedbackStore, Record

EXCERPT = 60  # characters


@dataclass(frozen=True)
class Options:
    """The flags of `counts`."""

    url: str = option("", "a file, sqlite:///FILE or postgresql://... (default: $SFUMATO_FEEDBACK, or a file of yours)")
    json: bool = option(False, "write the result as JSON, and nothing else, to standard output")

    def open(self) -> "FeedbackStore":
        """The database, which must exist."""
        return open_feedback(self.url)


@dataclass(frozen=True)
class Selection(Options):
    """The flags of `export`."""

    since: str = option("", "nothing older than this: 2026-01-31 or 2026-01-31T12:00 (UTC unless it names a zone)")
    kinds: tuple[str, ...] = option((), "thumb, rating, correction, preference; several with commas (default: all)")

    def read(self, store: "FeedbackStore") -> "Iterable[Record]":
        """What is asked for, oldest first."""
        return store.read(_moment(self.since) if self.since else None, self.kinds or None)


@dataclass(frozen=True)
class Latest(Selection):
    """The flags of `list`."""

    last: int = option(20, "how many of them", at_least=1)


@dataclass(frozen=True)
class Import(Options):
    """The flags of `import`."""

    file: str = argument(
        "JSON lines: {prompt, response, correction or thumb or rating}, {prompt, chosen, rejected}", ""
    )


def open_feedback(url: str, *, create: bool = False) -> "FeedbackStore":
    """The database of that URL, or the default one; it must exist, unless it is to be made."""
    from importlib.util import find_spec

    if find_spec("sqlalchemy") is None:
        raise ConfigError("feedback needs SQLAlchemy, which is not installed: pip install 'sfumato[serve]'")
    from sfumato.store.feedback import FeedbackStore
    from sfumato.store.urls import default_url

    return FeedbackStore(url or default_url(), create=create)


def run(words: list[str], out: TextIO) -> None:
    """Dispatch to the commands about feedback."""
    commands = {
        "list": "show the latest feedback",
        "import": "take in feedback that was given elsewhere, from JSON lines",
        "export": "write feedback and the responses it is about as JSON lines",
        "counts": "say how much there is of each kind",
    }
    name, words = choose(words, commands, "sfumato feedback", "Look at what users thought of a model's texts.")
    {"list": _list, "import": _import, "export": _export, "counts": _counts}[name](words, out)


def _list(words: list[str], out: TextIO) -> None:
    options = parse(Latest, words, "sfumato feedback list", "Show the latest feedback, the newest one last.")
    with options.open() as store:
        records = deque(options.read(store), maxlen=options.last)
    if options.json:
        _write(records, out)
        return
    from sfumato.show.pieces import harmless

    for feedback, response, _ in records:
        said = feedback.comment if feedback.correction is None else feedback.correction
        words = [f"{feedback.created:%Y-%m-%d %H:%M}", f"{_verdict(feedback):14}", f"{response.model:12}"]
        line = "  ".join([*words, _excerpt(response.completion), *([f"<- {_excerpt(said)}"] if said else [])])
        print(harmless(line), file=out)


def _import(words: list[str], out: TextIO) -> None:
    about = "Take in feedback that was given elsewhere; what is stored already stays as it is."
    options = parse(Import, words, "sfumato feedback import", about)
    if not options.file:
        raise ConfigError("missing FILE: the feedback, as JSON lines; see sfumato feedback import --help")
    from pathlib import Path

    from sfumato.store.imported import read_feedback

    with open_feedback(options.url, create=True) as store:
        added = [store.add(feedback, responses) for feedback, responses in read_feedback(Path(options.file))]
    facts = {"read": len(added), "new": sum(added)}
    print(json.dumps(facts) if options.json else f"{facts['new']} new of {facts['read']}", file=out)


def _export(words: list[str], out: TextIO) -> None:
    about = "Write feedback and the responses it is about as JSON lines, oldest first."
    options = parse(Selection, words, "sfumato feedback export", about)
    with options.open() as store:
        _write(options.read(store), out)


def _counts(words: list[str], out: TextIO) -> None:
    options = parse(Options, words, "sfumato feedback counts", "Say how much feedback there is of each kind.")
    with options.open() as store:
        counts = store.counts()
    if options.json:
        print(json.dumps(counts), file=out)
        return
    for name, count in counts.items():
        print(f"{name.replace('_', ' '):12}{count:8}", file=out)


def _write(records: "Iterable[Record]", out: TextIO) -> None:
    for feedback, response, other in records:
        record = {"feedback": _plain(feedback), "response": _plain(response), "over": other and _plain(other)}
        print(json.dumps(record, allow_nan=False), file=out)


def _plain(record: Any) -> dict[str, Any]:
    return {**asdict(record), "created": record.created.isoformat()}


def _verdict(feedback: Any) -> str:
    if feedback.kind == "thumb":
        return "thumb up" if feedback.value > 0 else "thumb down"
    return f"rating {feedback.value}" if feedback.kind == "rating" else feedback.kind


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 3] + "..."


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since: expected a date or a time such as 2026-01-31T12:00, got {text!r:.80}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
