"""`sfumato chat`: talk with a model; in a terminal, watch its answers appear out of noise."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sfumato.cli.conversation import Conversation, command_of
from sfumato.cli.writing import SamplingOptions, printable, terminal
from sfumato.config import ConfigError, option, parse

if TYPE_CHECKING:
    from rich.console import Console

    from sfumato.sample.language_model import Generation, Start
    from sfumato.sample.trace import Commit, Event

HISTORY = 1000  # lines that are remembered from one time to the next


@dataclass(frozen=True, kw_only=True)
class Options(SamplingOptions):
    """The flags of this command."""

    model: str = option(
        "tiny-chat", "folder of a bundle that `sfumato tune` wrote, or the name of one that comes along"
    )
    max_tokens: int = option(96, "length of an answer at most, in tokens", at_least=1)
    system: str = option("", "what the model is told before the conversation")
    json: bool = option(False, "write JSON, one line an answer, and nothing else, to standard output")
    show: bool = option(True, "in a terminal, show how an answer appears")
    delay: float = option(0.03, "seconds to wait after each step that is shown", at_least=0, at_most=60)


def run(words: list[str], out: TextIO) -> None:
    """Talk until the user leaves; without a terminal to read from, each line is a message or a command."""
    about = "Talk with a model. Standard input that is no terminal is read line by line. /help lists commands."
    options = parse(Options, words, "sfumato chat", about)
    console = terminal(out) if options.show and not options.json else None
    with console.status("loading the model") if console else nullcontext():
        from sfumato.sample.language_model import LanguageModel

        model = LanguageModel.load(options.model, options.device, options.dtype)
    conversation = Conversation(model, options.settings(), options.max_tokens, options.system, options.seed)
    talk = Talk(conversation, options, console, out)
    if not sys.stdin.isatty():
        for line in _lines(_piped()):
            if not talk.hear(line):
                return
        return
    talk.tell(f"{model.path.name if model.path else 'a model'}: /help lists commands, Ctrl-D leaves")
    with _remembered():
        talk.converse(_lines(_typed("> " if out.isatty() else "")))


@dataclass
class Talk:
    """Messages go to the model, its answers to the reader."""

    conversation: Conversation
    options: Options
    console: "Console | None"
    out: TextIO

    def converse(self, lines: Iterator[str]) -> None:
        """Talk with a person: a mistake is told, Ctrl-C ends an answer, and the conversation goes on."""
        while True:
            try:
                line = next(lines, None)
                if line is None or not self.hear(line):
                    return
            except KeyboardInterrupt:
                self.tell("stopped; nothing of it is kept")
            except (ValueError, OSError) as error:
                self.tell(str(error))

    def hear(self, line: str) -> bool:
        """Obey a command, or answer a message; False to leave.

        Raises:
            ValueError: a command or message that is of no use.
        """
        conversation = self.conversation
        command, message = command_of(line)
        if command == "/quit":
            return False
        if command == "/retry":
            kept = conversation.turns[:]
            message = conversation.take_back()
            try:
                self.answer(message)
            except BaseException:
                conversation.turns = kept
                raise
        elif command:
            self.tell(conversation.obey(command, message))
        else:
            self.answer(message)
        return True

    def answer(self, message: str) -> None:
        """Let the model answer, for all to see."""
        conversation, options = self.conversation, self.options
        if dropped := conversation.dropped(message):
            self.tell(f"the oldest messages no longer fit: {dropped} left out")
        if options.json:
            print(json.dumps(self._record(conversation.answer(message), dropped)), file=self.out, flush=True)
        elif self.console:
            self._show(message, self.console)
        else:
            print(printable(conversation.answer(message).completion, self.out), file=self.out, flush=True)

    def tell(self, line: str) -> None:
        """Something that is no answer."""
        print(line, file=sys.stderr, flush=True)

    def _show(self, message: str, console: "Console") -> None:
        """Write an answer before the reader's eyes."""
        from sfumato.show.terminal import TerminalView

        model, begin = self.conversation.model, 0
        end_id, delay = model.bundle.config.tokens.end, self.options.delay
        with TerminalView(console, model.tokenizer.token_bytes, end_id, delay=delay, guesses=True) as view:

            def begun(row: "Start") -> None:
                nonlocal begin
                begin = (*row.editable, True).index(True)
                view.start(row.tokens[begin:], row.editable[begin:])

            self.conversation.answer(
                message, on_start=begun, on_event=lambda event: view(_behind(event, begin)), drafts=True
            )

    def _record(self, generation: "Generation", dropped: int) -> dict:
        return {
            "model": str(self.conversation.model.path),
            "content": generation.completion,
            "finish_reason": generation.finish_reason,
            "seed": generation.seed,
            "dropped": dropped,
            "stats": asdict(generation.stats),
            "settings": {"max_tokens": self.conversation.max_tokens, **asdict(generation.settings)},
        }


def _behind(event: "Event", begin: int) -> "Event":
    """What happened, in places counted from `begin`; nothing happens before it."""

    def moved(commits: "tuple[Commit, ...]") -> "tuple[Commit, ...]":
        return tuple(replace(commit, position=commit.position - begin) for commit in commits)

    return replace(
        event,
        commits=moved(event.commits),
        drafts=moved(event.drafts),
        inserted=tuple(column - begin for column in event.inserted),
        tokens=None if event.tokens is None else event.tokens[begin:],
    )


def _lines(read: Iterator[str]) -> Iterator[str]:
    """Messages: lines that are not blank; a backslash at a line's end joins the next one to it."""
    held = ""
    for line in read:
        held += line
        if held.endswith("\\"):
            held = held[:-1] + "\n"
            continue
        if held.strip():
            yield held.strip()
        held = ""
    if held.strip():
        yield held.strip()


def _piped() -> Iterator[str]:
    """Lines of standard input as UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"standard input, line {number}: not UTF-8 text ({error.reason})") from None


def _typed(prompt: str) -> Iterator[str]:
    """Lines that a person types, until Ctrl-D."""
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return
        except KeyboardInterrupt:  # takes back what stands in the line
            print(file=sys.stderr)


@contextmanager
def _remembered() -> Iterator[None]:
    """Editing of lines, and those of earlier times, where the system can."""
    try:
        import readline
    except ImportError:
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    file = state / "sfumato" / "chat_history"
    try:
        readline.read_history_file(file)
    except OSError:
        pass
    try:
        yield
    finally:
        readline.set_history_length(HISTORY)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
            file.chmod(0o600)
        except OSError:  # no place to keep it
            pass
