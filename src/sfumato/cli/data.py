"""`sfumato data`: look at training text, and clean it."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli import choose
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, Source, argument, option, parse

if TYPE_CHECKING:
    from sfumato.data.care.clean import Care, CareReport
    from sfumato.data.sources import Document


@dataclass(frozen=True)
class Options:
    """The flags of `check`."""

    sources: tuple[str, ...] = argument("texts: files, folders or hf:NAME")
    field: str = option("text", "the key of a record that holds the text")
    against: tuple[str, ...] = option((), "texts that must not be in it, such as held-out ones; files or folders")
    repair: bool = option(True, "put text right that was decoded wrongly")
    redact: bool = option(True, "replace e-mail addresses, telephone, card and account numbers, IP addresses")
    language: tuple[str, ...] = option((), "languages that stay, such as en,de; empty = all")
    near: float = option(0.8, "similarity from which on a text is a near duplicate; 0 = only equal ones go", at_least=0)
    shortest: int = option(1, "characters that a text must have", at_least=0)
    longest: int = option(0, "characters that it may have; 0 = any number", at_least=0)
    repetition: float = option(0.5, "share of its words that may repeat what it said", at_least=0, at_most=1)
    json: bool = option(False, "write the report as JSON, and nothing else, to standard output")

    def care(self) -> "Care":
        """All that these flags ask for."""
        from sfumato.data.care.clean import Care, whole
        from sfumato.data.care.duplicates import Exact, Near
        from sfumato.data.care.filters import Length, Repetition
        from sfumato.data.care.language import Languages
        from sfumato.data.care.redact import Redact
        from sfumato.data.care.repair import Repair

        languages = Languages(self.language)

        def known() -> Iterator[str]:
            return (whole(document) for path in self.against for document in self.read(path, {}))

        return Care(
            changes=[*([Repair()] if self.repair else []), *([Redact()] if self.redact else [])],
            tests=[
                Length(self.shortest, self.longest),
                languages,
                Repetition(self.repetition),
                Exact(known()),
                *([Near(self.near, known())] if self.near else []),
            ],
            languages=languages,
        )

    def read(self, path: str, broken: dict[str, int]) -> "Iterator[Document]":
        """The documents of a source; how many lines were unreadable is written into `broken`."""
        from sfumato.data.sources import Report, documents

        report = Report("skip")
        yield from documents(Source(path, field=self.field), report)
        broken[path] = report.skipped


@dataclass(frozen=True)
class Cleaning(Options):
    """The flags of `clean`."""

    out: str = option("", "file to write: JSON lines, with the language of each text (.jsonl)")
    licence: str = option("", "licence and attribution of these texts, written into each record")
    spelling: str = option(
        "",
        "tag = note which English spelling each text has; british, american = change it; both = write each in both",
        ("", "tag", "british", "american", "both"),
    )
    redact: bool = option(False, "replace e-mail addresses, telephone, card and account numbers, IP addresses")


def run(words: list[str], out: TextIO) -> None:
    """Dispatch to the commands about data."""
    commands = {
        "check": "say what is wrong with texts, and what `clean` would do",
        "clean": "write them without duplicates, broken encodings and what else is asked for",
    }
    name, words = choose(words, commands, "sfumato data", "Look at training text, and clean it.")
    {"check": _check, "clean": _clean}[name](words, out)


def _check(words: list[str], out: TextIO) -> None:
    options = parse(Options, words, "sfumato data check", "Say what is wrong with texts; nothing is written.")
    with progress() as bar:
        report = _through(options, bar, None)
    _tell(report, {}, options.json, out)


def _clean(words: list[str], out: TextIO) -> None:
    about = "Write texts in one file, repaired, without duplicates; the same texts give the same file."
    options = parse(Cleaning, words, "sfumato data clean", about)
    if Path(options.out).suffix != ".jsonl":
        raise ConfigError(f"--out {options.out or 'FILE'}: expected the name of a file that ends in .jsonl")
    target = Path(options.out).resolve()
    for path in map(Path, (*options.sources, *options.against)):
        if target == path.resolve() or (target.exists() and path.resolve() in target.parents):
            raise ConfigError(f"--out {options.out}: would replace what is read, from {path}; write another file")
    with progress() as bar, _replacing(Path(options.out)) as handle:
        report = _through(options, bar, handle)
    _tell(report, {"out": options.out}, options.json, out)


def _through(options: Options, bar: Bar, handle: TextIO | None) -> "CareReport":
    """Read everything, and write what stays."""
    from sfumato.data.care.clean import CareReport, record

    care, report, broken = options.care(), CareReport(), {}
    licence = {"licence": options.licence} if isinstance(options, Cleaning) and options.licence else {}
    bar.begin("reading the texts")
    for path in options.sources:
        for document, language in care(options.read(path, broken), report, Path(path).name):
            if report.documents % 100 == 0:
                bar.show(report.documents, f"{report.documents} documents")
            if isinstance(options, Cleaning) and handle:
                for spelled, tag in _spelled(document, options.spelling):
                    line = {**record(spelled), "language": language, **tag, **licence}
                    handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    report.broken = sum(broken.values())
    if not report.documents:
        raise ConfigError(f"{', '.join(options.sources)}: no text in it; give files that hold some")
    return report


def _spelled(document: "Document", spelling: str) -> "Iterator[tuple[Document, dict[str, str]]]":
    """The document in the spellings that are asked for, each with its tag."""
    if not spelling:
        yield document, {}
        return
    from functools import partial

    from sfumato.data.care.clean import each, whole
    from sfumato.data.variants import VARIANTS, respelled, variant_of

    found = variant_of(whole(document))
    if spelling == "tag" or (spelling == "both" and not found):
        yield document, {"spelling": found}
        return
    for variant in VARIANTS if spelling == "both" else (spelling,):
        yield each(document, partial(respelled, variant=variant)), {"spelling": variant}


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(number, "w", encoding="utf-8") as handle:
            yield handle
        Path(draft).chmod(0o644)
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _tell(report: "CareReport", more: dict[str, Any], as_json: bool, out: TextIO) -> None:
    if as_json:
        print(json.dumps({**more, **asdict(report)}), file=out)
        return
    from sfumato.show.pieces import harmless

    share = report.characters_kept / max(1, report.characters)
    where = f"{more['out']}: " if more else ""
    print(f"{where}{report.kept} of {report.documents} documents stay, {share:.1%} of the characters", file=out)
    if report.broken:
        print(f"  {report.broken:8} lines cannot be read", file=out)
    for what, counts in (("", report.changed), ("out: ", report.dropped)):
        for name, count in counts.items():
            print(f"  {count:8} {what}{name}", file=out)
            for example in report.examples[name]:
                print(harmless(f"{'':11}{example}"), file=out)
    found = sorted(report.languages.items(), key=lambda one: -one[1])
    print("  languages: " + ", ".join(f"{code or 'too short'} {count}" for code, count in found), file=out)
