"""The command line: one thin module a command, imported only when it runs.

A command is a module `sfumato.cli.<name>` with `run(words, out) -> int | None`: `words` is what follows the command's
name, `out` is where its result goes. With `--json`, `out` is the true standard output, while everything else that
prints is sent to standard error: so standard output holds nothing but the JSON.

A user's mistake (ValueError, OSError) ends as one line on standard error and exit code 2. To see where it came from,
set SFUMATO_TRACEBACK=1.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from sfumato.config import ConfigError, closest

COMMANDS = {
    "train": "train a model from a recipe",
    "plan": "what a training run needs, on paper: days, memory, what is sent",
    "tune": "teach a trained model: answers, preferences, rewards, fewer steps",
    "generate": "continue a prompt, and watch the text appear out of noise",
    "chat": "talk with a model that was tuned on conversations",
    "infill": "fill the holes of a template",
    "serve": "put models behind an OpenAI-compatible API and a web page",
    "evaluate": "measure how well a model predicts a text",
    "likelihood": "measure how probable each record of a dataset is, here or on a cluster",
    "task": "make problems with checkable answers, and score a model on them",
    "score": "let a model answer a recipe's questions, and judge the answers",
    "compare": "put models side by side: likelihood, quality of what they write, cost",
    "scale": "train a ladder of small models, and predict a larger one from them",
    "sweep": "draw a model's quality against the number of forward passes, sampler by sampler",
    "embed": "turn texts into vectors, and measure how much these say",
    "improve": "tune a model on feedback, and promote what is better",
    "models": "versions of a model: list, promote, roll back",
    "feedback": "look at what users thought of a model's texts, and export it",
    "compress": "make a model smaller: prune it, heal it, store its weights in fewer bits",
    "info": "describe a model",
    "doctor": "look at the machine, the software and the package itself: what works, how fast, what to do",
    "convert": "write a model in another layout: ours, transformers', or a public family's",
    "classifier": "train a classifier that can guide a model",
    "data": "look at training text, and clean it",
    "tokenizer": "train a tokenizer",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; None takes them from the process.

    Returns:
        The exit code; see `safely`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # text that a terminal cannot show must not end a command
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    return safely(lambda: _run(words))


def safely(action: Callable[[], int | None]) -> int:
    """Do it, and turn what goes wrong into one line on standard error.

    Returns:
        The exit code: the action's own, 2 for a mistake of the user's, 130 when interrupted, 141 when the reader of
        our output went away.
    """
    try:
        code = action()
        sys.stdout.flush()
        return code or 0
    except SystemExit as stop:  # argparse, after it has printed the help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        _drop_output()
        return 141
    except (ValueError, OSError) as error:
        if os.environ.get("SFUMATO_TRACEBACK"):
            raise
        return _fail(_one_line(error), 2)


@contextmanager
def result_stream(words: Sequence[str]) -> Iterator[TextIO]:
    """Standard output for a command's result; with `--json` among the flags, nothing else can print there."""
    out, flags = sys.stdout, words[: words.index("--")] if "--" in words else words
    if "--json" not in flags:
        yield out
        return
    with redirect_stdout(sys.stderr):
        yield out


def choose(words: Sequence[str], commands: Mapping[str, str], prog: str, about: str) -> tuple[str, list[str]]:
    """The command that `words` begin with, and the words after it.

    Raises:
        ConfigError: if there is no such command; it names the closest one.
        SystemExit: after help was printed; code 0 where it was asked for, 2 where the command is missing.
    """
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, commands)) + 2
        lines = [f"usage: {prog} COMMAND ...", "", about, "", "commands:"]
        lines += [f"  {name:{width}}{what}" for name, what in commands.items()]
        lines += ["", f"`{prog} COMMAND --help` describes a command."]
        print("\n".join(lines), file=sys.stdout if words else sys.stderr)
        raise SystemExit(0 if words else 2)
    if words[0] not in commands:
        kind = "flag" if words[0].startswith("-") else "command"
        valid = closest(words[0].lower(), [*commands, "--help"])
        hint = f"did you mean {prog} {valid}?" if valid else f"one of {', '.join(commands)}; see {prog} --help"
        raise ConfigError(f"unknown {kind} {words[0]}; {hint}")
    return words[0], list(words[1:])


def _run(words: list[str]) -> int | None:
    if words[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"sfumato {version('sfumato')}")
        return 0
    name, words = choose(words, COMMANDS, "sfumato", "Train, evaluate and run diffusion language models.")
    from importlib import import_module

    with result_stream(words) as out:
        return import_module(f"sfumato.cli.{name}").run(words, out)


def _fail(message: str, code: int) -> int:
    try:
        print(f"sfumato: {message}", file=sys.stderr)
    except OSError:  # nobody listens there any more
        pass
    return code


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    return " ".join(text.split()) or type(error).__name__


def _drop_output() -> None:
    """Keep the interpreter from complaining, as it exits, about output that nobody reads."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file
        pass
