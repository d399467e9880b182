"""`sfumato generate`: continue a prompt."""

from dataclasses import dataclass
from typing import TextIO

from sfumato.cli.structured import StructuredOptions
from sfumato.cli.writing import WritingOptions, write
from sfumato.config import argument, option, parse


@dataclass(frozen=True, kw_only=True)
class Options(WritingOptions, StructuredOptions):
    """The flags of this command."""

    prompt: str = argument("the text to continue; - reads it from standard input")
    length: int | None = option(None, "write exactly so many tokens, and end there", at_least=1)


def run(words: list[str], out: TextIO) -> None:
    """Continue a prompt; in a terminal, let the reader watch the text appear out of noise."""
    options = parse(Options, words, "sfumato generate", "Continue a prompt, and watch the text appear out of noise.")
    write(options, options.prompt, lambda model: model.generate, out, length=options.length, form=options.constraint)
