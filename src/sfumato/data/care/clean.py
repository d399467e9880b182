"""The way of a document through data care: every change, then every test until one says why it has to go."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sfumato.data.care.language import Languages
from sfumato.data.care.seam import Change, Test
from sfumato.data.sources import Chat, Document, Pair

EXAMPLES = 3  # of each kind
EXCERPT = 60  # characters


@dataclass
class CareReport:
    """What was done to some documents."""

    documents: int = 0
    kept: int = 0
    characters: int = 0
    """Of all documents, as they came."""
    characters_kept: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    """Documents that each change changed, whether they stayed or not."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Documents that each test turned away; a document is counted by the first one that did."""
    languages: dict[str, int] = field(default_factory=dict)
    """Documents that stayed, by the code of their language; "" = too short to tell."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first few of each change and test: where, and what or why."""
    broken: int = 0
    """Lines that could not be read."""

    def example(self, name: str, where: str, text: str) -> None:
        """Remember one of the first few."""
        if len(known := self.examples.setdefault(name, [])) < EXAMPLES:
            known.append(f"{where}: {text}")


@dataclass(frozen=True)
class Care:
    """What to do to documents, in this order.

    Attributes:
        changes: applied one after the other, to each message of a conversation and each part of a pair.
        tests: asked about all of a document's text, changed, until one turns it away.
        languages: tells what language a document is in; None = nobody asks.
    """

    changes: Sequence[Change] = ()
    tests: Sequence[Test] = ()
    languages: Languages | None = None

    def __call__(self, documents: Iterable[Document], report: CareReport, name: str) -> Iterator[tuple[Document, str]]:
        """The documents that stay, changed, each with its language.

        Args:
            documents: in their order; one at a time is in memory.
            report: gets the counts and examples.
            name: of the source, for the examples.
        """
        for number, document in enumerate(documents, 1):
            where = f"{name}, document {number}"
            report.documents += 1
            report.characters += len(whole(document))
            for change in self.changes:
                document = self._changed(document, change, where, report)
            text = whole(document)
            if self._refused(text, where, report):
                continue
            language = self.languages.of(text) if self.languages else ""
            if self.languages:
                report.languages[language] = report.languages.get(language, 0) + 1
            report.kept += 1
            report.characters_kept += len(text)
            yield document, language

    def _changed(self, document: Document, change: Change, where: str, report: CareReport) -> Document:
        after = each(document, change)
        if after != document:
            report.changed[change.name] = report.changed.get(change.name, 0) + 1
            report.example(change.name, where, _difference(whole(document), whole(after)))
        return after

    def _refused(self, text: str, where: str, report: CareReport) -> bool:
        for test in self.tests:
            if why := test(text):
                report.dropped[test.name] = report.dropped.get(test.name, 0) + 1
                report.example(test.name, where, f"{why}: {_excerpt(text)}")
                return True
        return False


def whole(document: Document) -> str:
    """All of a document's text, its parts on lines of their own."""
    if isinstance(document, str):
        return document
    if isinstance(document, Pair):
        return f"{whole(document.prompt)}\n{document.response}"
    return "\n".join(content for _, content in document)


def each(document: Document, change: Callable[[str], str]) -> Document:
    """A change of each of its parts."""
    if isinstance(document, str):
        return change(document)
    if isinstance(document, Pair):
        return replace(document, prompt=_changed(document.prompt, change), response=change(document.response))
    return _changed(document, change)


def _changed(said: str | Chat, change: Callable[[str], str]) -> str | Chat:
    return change(said) if isinstance(said, str) else tuple((role, change(content)) for role, content in said)


def record(document: Document) -> dict[str, object]:
    """The document as a line of JSON holds it, in the form in which it can be read again."""
    if isinstance(document, str):
        return {"text": document}
    if isinstance(document, Pair):
        return {"prompt": _plain(document.prompt), "response": document.response}
    return {"messages": _plain(document)}


def _plain(said: str | Chat) -> str | list[dict[str, str]]:
    return said if isinstance(said, str) else [{"role": role, "content": content} for role, content in said]


def _difference(before: str, after: str) -> str:
    """The surroundings of the first place where two texts differ."""
    begin = max(0, len(os.path.commonprefix([before, after])) - 15)
    return f"{_excerpt(before[begin:])} -> {_excerpt(after[begin:])}"


def _excerpt(text: str) -> str:
    line = " ".join(text[: 2 * EXCERPT].split())
    return repr(line if len(line) <= EXCERPT else line[: EXCERPT - 3] + "...")
