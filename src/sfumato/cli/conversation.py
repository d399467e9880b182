"""A conversation with a model, and the commands that change it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.writing import SETTINGS, SamplingOptions
from sfumato.config import ConfigError, closest, parse

if TYPE_CHECKING:
    from sfumato.sample.language_model import Generation, LanguageModel
    from sfumato.text.chat import Message

HELP = {
    "/retry": "answer the last message once more, differently",
    "/undo": "take back the last message and its answer",
    "/reset": "begin anew",
    "/system TEXT": "tell the model how to behave; without a text, show what it was told",
    "/set NAME=VALUE": "change a setting: temperature, steps, sampler, block, max_tokens, seed, ...",
    "/save FILE": "append the conversation to a file of JSON lines, as `sfumato tune` reads them",
    "/help": "these lines",
    "/quit": "leave; so does Ctrl-D",
}
_CHANGING = (*SETTINGS, "max_tokens", "seed")


@dataclass
class Conversation:
    """What was said so far, and how the next answer is written."""

    model: "LanguageModel"
    settings: dict[str, Any]
    """Those of a generation; None = the model's own default."""
    max_tokens: int
    """Of an answer."""
    system: str = ""
    seed: int = 0
    """Of the next answer; each one makes it larger by one."""
    turns: "list[Message]" = field(default_factory=list)
    """Users' and the model's, an answer to each message."""

    def __post_init__(self) -> None:
        """Refuse a model that knows no conversations, or settings that it cannot have (ValueError)."""
        self.model.front.plan(self.settings)
        self.dropped("")

    @property
    def messages(self) -> "list[Message]":
        """All of it."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]

    def dropped(self, message: str) -> int:
        """How many of the oldest messages do not fit into the context beside this one and its answer."""
        return self.model.front.conversation(self._asked(message), self.max_tokens)[1]

    def answer(self, message: str, **watch: Any) -> "Generation":
        """Let the model answer; where that fails or is interrupted, the conversation is what it was before."""
        asked = self._asked(message)
        generation = self.model.reply(asked, max_tokens=self.max_tokens, seed=self.seed, **self.settings, **watch)
        self.turns += [asked[-1], {"role": "assistant", "content": generation.completion}]
        self.seed = (self.seed + 1) % 2**63
        return generation

    def obey(self, command: str, rest: str) -> str:
        """Do what a command says; all but those that need more than the conversation: quit and retry.

        Returns:
            What to tell.

        Raises:
            ValueError: an unknown command, or one that cannot be obeyed; nothing has changed.
            OSError: a file that cannot be written.
        """
        match command:
            case "/help":
                return "\n".join(f"{name:16}{what}" for name, what in HELP.items())
            case "/reset":
                self.turns.clear()
                return "a new conversation"
            case "/undo":
                return f"taken back: {self.take_back()}"
            case "/system":
                self.system = rest or self.system
                return f"system: {self.system or 'nothing'}"
            case "/set":
                return self._set(rest)
            case "/save":
                return self._save(rest)
        names = [name.split()[0] for name in HELP]
        raise ConfigError(f"unknown command {command}; did you mean {closest(command, names) or '/help'}?")

    def take_back(self) -> str:
        """Forget the last message and its answer; returns the message.

        Raises:
            ConfigError: nothing was said.
        """
        if not self.turns:
            raise ConfigError("nothing was said yet")
        message = self.turns[-2]["content"]
        del self.turns[-2:]
        return message

    def _asked(self, message: str) -> "list[Message]":
        return [*self.messages, {"role": "user", "content": message}]

    def _set(self, words: str) -> str:
        """Change a setting as the flag of that name would; without one, tell what is set."""
        if not words:
            chosen = {name: value for name, value in self.settings.items() if value is not None}
            chosen |= {"max_tokens": self.max_tokens, "seed": self.seed}
            return ", ".join(f"{name} {value}" for name, value in chosen.items())
        name, equals, text = (part.strip() for part in words.partition("="))
        name = name.replace("-", "_")
        if not equals or name not in _CHANGING:
            hint = next((known for known in _CHANGING if known.startswith(name)), None) or closest(name, _CHANGING)
            raise ConfigError(f"/set: expected NAME=VALUE, such as {hint or 'temperature'}=..., got {words!r}")
        value = getattr(parse(SamplingOptions, [f"--{name.replace('_', '-')}", text], "/set", ""), name)
        if name in SETTINGS:
            settings = {**self.settings, name: value}
            self.model.front.plan(settings)
            self.settings = settings
        else:
            if name == "max_tokens":
                self.model.front.conversation(self._asked(""), value)
            setattr(self, name, value)
        return f"{name} {value}"

    def _save(self, file: str) -> str:
        if not file or not self.turns:
            raise ConfigError("/save: expected the name of a file, and something that was said")
        with open(Path(file).expanduser(), "a", encoding="utf-8") as out:
            out.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        return f"added to {file}"


def command_of(line: str) -> tuple[str, str]:
    """The command that a line is, and what follows it; else "" and the message, of which `//` is a single slash."""
    if line.startswith("//"):
        return "", line[1:]
    if not line.startswith("/"):
        return "", line
    command, _, rest = line.partition(" ")
    return command, rest.strip()
