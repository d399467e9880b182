"""`sfumato generate`: continue a prompt, or all prompts of a file."""

from dataclasses import dataclass
from typing import TextIO

from sfumato.cli.bulk import BulkOptions, write_lines
from sfumato.cli.writing import write
from sfumato.config import ConfigError, argument, option, parse


@dataclass(frozen=True, kw_only=True)
class Options(BulkOptions):
    """The flags of this command."""

    prompt: str | None = argument("the text to continue; - reads it from standard input", None)
    length: int | None = option(None, "write exactly so many tokens, and end there", at_least=1)


def run(words: list[str], out: TextIO) -> None:
    """Continue a prompt; in a terminal, let the reader watch the text appear out of noise."""
    options = parse(Options, words, "sfumato generate", "Continue a prompt, and watch the text appear out of noise.")
    if options.input:
        if options.prompt is not None or options.length is not None:
            given = "PROMPT" if options.prompt is not None else "--length"
            raise ConfigError(f"{given} and --input: the lines of the file say what to write; leave one of them out")
        write_lines(options, out)
        return
    if options.prompt is None:
        raise ConfigError("missing: prompt; give a text to continue, or --input FILE; see sfumato generate --help")
    if options.output:
        raise ConfigError("--output goes with --input FILE; the text of one prompt goes to standard output")
    write(options, options.prompt, lambda model: model.generate, out, length=options.length, form=options.constraint)
