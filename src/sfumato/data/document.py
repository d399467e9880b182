"""What a document is: a text, a conversation, or a prompt with its response; and what is wrong with one."""

from dataclasses import dataclass, field
from typing import Any

from sfumato.text.chat import ROLES
from sfumato.text.tokenizer import check_text

LONGEST = 1 << 14  # characters; a longer text becomes several documents, so that one big file can be shuffled and split
Chat = tuple[tuple[str, str], ...]  # (role, content) of each message


class DataError(ValueError):
    """Training text is missing, empty or unreadable."""


@dataclass(frozen=True)
class Pair:
    """A prompt, which is only ever read, and the response to it, which is learned and scored."""

    prompt: str | Chat
    """A text, or the turns of a conversation, of which none is learned."""
    response: str


Document = str | Chat | Pair


@dataclass
class Report:
    """What was wrong with the lines of a source, and what to do about it.

    Attributes:
        on_error: "stop" raises at the first broken line, "skip" counts it.
        skipped: broken lines so far.
        examples: the first few, each as `file:line: why`.
    """

    on_error: str = "stop"
    skipped: int = 0
    examples: list[str] = field(default_factory=list)

    def broken(self, where: str, why: str) -> None:
        """Count a broken line, or raise `DataError` when they must stop the run."""
        if self.on_error == "stop":
            raise DataError(f"{where}: {why} (--data.on_error skip leaves such lines out)")
        self.skipped += 1
        if len(self.examples) < 5:
            self.examples.append(f"{where}: {why}")


class Section(str):
    """A stretch of a long text, which is tokenised and held out or learned by itself."""

    first: bool
    """Whether the text begins with it."""
    last: bool
    """Whether the text ends with it."""

    @staticmethod
    def cut(text: str) -> "list[Section]":
        """The sections of a text."""
        found = [Section(part) for part in sections(text)]
        for part in found:
            part.first, part.last = part is found[0], part is found[-1]
        return found


def sections(text: str, longest: int = LONGEST) -> list[str]:
    """Cut a text that is longer than `longest` characters, preferably between paragraphs, else lines, else words."""
    found, begin = [], 0
    while len(text) - begin > longest:
        stop = begin + longest
        for border in ("\n\n", "\n", " "):
            if (at := text.rfind(border, begin + longest // 2, stop)) >= 0:
                stop = at + len(border.rstrip(" "))  # a space belongs to the word after it
                break
        found.append(text[begin:stop])
        begin = stop
    return [*found, text[begin:]]


def length(document: Document) -> int:
    """Its characters."""
    if isinstance(document, str):
        return len(document)
    if isinstance(document, Pair):
        return length(document.prompt) + len(document.response)
    return sum(len(content) for _, content in document)


def document_of(value: Any, where: str, report: Report) -> Document | None:
    """The document that a record's value is; None where it is blank, or broken, which `report` is told.

    Raises:
        DataError: it is broken, and `report.on_error` is "stop".
    """
    if why := fault(value):
        report.broken(where, why)
        return None
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, Pair):
        return value if isinstance(value.prompt, str) else Pair(_chat(value.prompt), value.response)
    return _chat(value) if value else None


def fault(value: Any) -> str | None:
    """Why `value` is no document, or None when it is one."""
    if isinstance(value, ValueError):
        return str(value)
    if isinstance(value, str):
        try:
            check_text(value)
        except ValueError as error:
            return str(error)
        return None
    if isinstance(value, Pair):
        return _pair_fault(value)
    if not isinstance(value, list):
        return f"expected a string or a list of messages, got {type(value).__name__}"
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"message {index} must have a role and a content string"
        if message.get("role") not in ROLES:
            return f"message {index} has role {message.get('role')!r}, expected one of {', '.join(ROLES)}"
        if why := fault(message["content"]):
            return f"message {index}: {why}"
    return None


def _chat(messages: Any) -> Chat:
    return tuple((message["role"], message["content"]) for message in messages)


def _pair_fault(pair: Pair) -> str | None:
    for name, part in vars(pair).items():
        if name == "prompt" and isinstance(part, list) and part:
            pass
        elif not isinstance(part, str):
            return f"{name} must be a string, got {type(part).__name__}"
        if why := fault(part):
            return f"{name}: {why}"
    return None if pair.response.strip() else "response is empty"
