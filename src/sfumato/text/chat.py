"""Conversations: how their turns become tokens. A template is data, kept in the bundle; it runs no code."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sfumato.config import ConfigError, from_mapping
from sfumato.text.tokenizer import SPECIAL, Tokenizer

Message = Mapping[str, str]  # role and content


@dataclass(frozen=True)
class Turn:
    """What stands around the content of a role's turn: names of special tokens."""

    before: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatTemplate:
    """The special tokens of each role, and what opens an answer."""

    system: Turn = Turn(("<|system|>",))
    user: Turn = Turn(("<|user|>",))
    assistant: Turn = Turn(("<|assistant|>",), ("<|end|>",))
    cue: tuple[str, ...] = ("<|assistant|>",)
    """What the model's answer begins behind."""
    default_system: str = ""
    """The system's turn of a conversation that has none; empty = none."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "chat") -> "ChatTemplate":
        """A template as `to_dict` gave it.

        Raises:
            ConfigError: an unknown key, or a special token that there is not.
        """
        template = from_mapping(cls, dict(content), where=where)
        names = [name for turn in template._turns().values() for name in (*turn.before, *turn.after)]
        if unknown := [name for name in (*names, *template.cue) if name not in SPECIAL]:
            raise ConfigError(f"{where}: no special token {unknown[0]!r}; expected one of {', '.join(SPECIAL)}")
        return template

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def check(self, messages: Sequence[Message]) -> None:
        """Refuse what is no conversation to answer.

        Raises:
            ValueError: the message that is wrong.
        """
        if not messages:
            raise ValueError("messages: expected at least one, got none")
        for i, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in Tokenizer.roles:
                raise ValueError(f"messages[{i}].role: got {role!r}, expected one of {', '.join(Tokenizer.roles)}")
            if not isinstance(content, str):
                raise ValueError(f"messages[{i}].content: expected text, got {type(content).__name__}")
            if role == "system" and i:
                raise ValueError(f"messages[{i}].role: a system message comes first, and there is only one")

    def opened(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with its system's turn."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        default = [{"role": "system", "content": self.default_system}] if self.default_system else []
        return list(messages) if has_system else [*default, *messages]

    def around(self, role: str) -> tuple[list[int], list[int]]:
        """Ids before and after the content of a turn."""
        turn = self._turns()[role]
        return _ids(turn.before), _ids(turn.after)

    @property
    def cue_ids(self) -> list[int]:
        """Ids that open an answer."""
        return _ids(self.cue)

    def fit(self, messages: Sequence[Message], tokenizer: Tokenizer, room: int) -> tuple[list[int], int]:
        """Ids of the conversation up to and with the cue, without its oldest turns where it is longer than `room`.

        The system's turn and the last message always stay; what is left begins with a user's turn, if there is one.

        Args:
            messages: roles and contents.
            tokenizer: of the model.
            room: tokens at most.

        Returns:
            The ids, and how many messages were left out.

        Raises:
            ValueError: no conversation, or even the last message is too long.
        """
        self.check(messages)
        opened = self.opened(messages)
        encoded = tokenizer.encode_batch([message["content"] for message in opened])
        turns = []
        for message, content in zip(opened, encoded, strict=True):
            before, after = self.around(message["role"])
            turns.append([*before, *content, *after])
        kept = fitting([len(turn) for turn in turns], [message["role"] for message in opened], room - len(self.cue))
        ids = [token for i in kept for token in turns[i]] + self.cue_ids
        if len(ids) > room:
            raise ValueError(
                f"messages too long: the last one alone needs {len(ids)} tokens, there is room for {room}; shorten it"
            )
        return ids, len(turns) - len(kept)

    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """All of the conversation up to and with the cue; see `fit`."""
        return self.fit(messages, tokenizer, 1 << 40)[0]

    def _turns(self) -> dict[str, Turn]:
        return {"system": self.system, "user": self.user, "assistant": self.assistant}


def fitting(lengths: Sequence[int], roles: Sequence[str], room: int) -> list[int]:
    """Which turns to keep so that no more than `room` tokens are left, if that can be: the oldest go first."""
    fixed = 1 if roles[0] == "system" else 0
    begin, left = fixed, sum(lengths)
    while begin < len(lengths) - 1 and left > room:
        left -= lengths[begin]
        begin += 1
        while begin > fixed and begin < len(lengths) - 1 and roles[begin] == "assistant":
            left -= lengths[begin]
            begin += 1
    return [*range(fixed), *range(begin, len(lengths))]


def _ids(names: Sequence[str]) -> list[int]:
    return [SPECIAL.index(name) for name in names]
