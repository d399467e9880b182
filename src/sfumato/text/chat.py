"""Conversations: how their turns become tokens. A template is data, kept in the bundle; it runs no code."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sfumato.config import ConfigError, from_mapping
from sfumato.text.interface import AnyTokenizer
from sfumato.text.tokenizer import SPECIAL, Tokenizer

Message = Mapping[str, str]  # role and content
Part = int | str  # a special token, or text
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """What stands around the content of a role's turn: names of special tokens, and literal text."""

    before: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatTemplate:
    """What stands around the turns of each role, and what opens an answer.

    A string is the name of a special token of the model's tokenizer, or else literal text; our own tokenizers have
    names for all roles and need no text.
    """

    system: Turn | None = Turn(("<|system|>",))
    """None where the model knows no system's turn."""
    user: Turn = Turn(("<|user|>",))
    assistant: Turn = Turn(("<|assistant|>",), ("<|end|>",))
    cue: tuple[str, ...] = ("<|assistant|>",)
    """What the model's answer begins behind."""
    default_system: str = ""
    """The system's turn of a conversation that has none; empty = none."""
    always_system: bool = False
    """Whether a conversation without a system's turn gets one even if it is empty."""
    opening: tuple[str, ...] = ()
    """What a conversation begins with, behind what opens every text."""
    strip: bool = False
    """Whether space around a message's content is left out."""

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], where: str = "chat", tokenizer: AnyTokenizer | None = None
    ) -> "ChatTemplate":
        """A template as `to_dict` gave it.

        Args:
            content: plain values.
            where: names it in errors.
            tokenizer: of the model; None leaves the names unchecked.

        Raises:
            ConfigError: an unknown key, or for a tokenizer of ours a special token that there is not.
        """
        template = from_mapping(cls, dict(content), where=where)
        if isinstance(tokenizer, Tokenizer):
            turns = (turn for turn in template._turns().values() if turn)
            names = [name for turn in turns for name in (*turn.before, *turn.after)]
            if unknown := [name for name in (*names, *template.cue, *template.opening) if name not in SPECIAL]:
                raise ConfigError(f"{where}: no special token {unknown[0]!r}; expected one of {', '.join(SPECIAL)}")
        return template

    @classmethod
    def in_words(cls, end: str, default_system: str = "") -> "ChatTemplate":
        """Roles in plain words, for a tokenizer that has no tokens for them; `end` names its end token."""
        return cls(
            system=Turn((), ("\n\n",)),
            user=Turn(("User:\n",), ("\n\n",)),
            assistant=Turn(("Assistant:\n",), (end, "\n\n")),
            cue=("Assistant:\n",),
            default_system=default_system,
            strip=True,
        )

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
            if role not in ROLES:
                raise ValueError(f"messages[{i}].role: got {role!r}, expected one of {', '.join(ROLES)}")
            if not isinstance(content, str):
                raise ValueError(f"messages[{i}].content: expected text, got {type(content).__name__}")
            if role == "system" and i:
                raise ValueError(f"messages[{i}].role: a system message comes first, and there is only one")
            if role == "system" and self.system is None:
                raise ValueError(f"messages[{i}].role: this model knows no system messages; tell it as the user")

    def opened(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with its system's turn."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        default = [{"role": "system", "content": self.default_system}] if self.has_system else []
        return list(messages) if has_system else [*default, *messages]

    @property
    def has_system(self) -> bool:
        """Whether a conversation that begins without a system's turn gets one."""
        return self.system is not None and bool(self.default_system or self.always_system)

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation up to and with the cue, special tokens by their names."""
        turns = [(self._turn(message["role"]), self._content(message["content"])) for message in self.opened(messages)]
        strings = [[*turn.before, content, *turn.after] for turn, content in turns]
        return "".join(string for row in (self.opening, *strings, self.cue) for string in row)

    def fit(self, messages: Sequence[Message], tokenizer: AnyTokenizer, room: int) -> tuple[list[int], int]:
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
        ((opening, *turns, cue),) = self.encoded([[(m["role"], m["content"]) for m in opened]], tokenizer)
        left = room - len(opening) - len(cue)
        kept = fitting([len(turn) for turn in turns], [message["role"] for message in opened], left)
        ids = [*opening, *(token for i in kept for token in turns[i]), *cue]
        if len(ids) > room:
            raise ValueError(
                f"messages too long: the last one alone needs {len(ids)} tokens, there is room for {room}; shorten it"
            )
        return ids, len(turns) - len(kept)

    def prompt(self, messages: Sequence[Message], tokenizer: AnyTokenizer) -> list[int]:
        """All of the conversation up to and with the cue; see `fit`."""
        return self.fit(messages, tokenizer, 1 << 40)[0]

    def encoded(
        self, conversations: Sequence[Sequence[tuple[str, str]]], tokenizer: AnyTokenizer
    ) -> list[list[list[int]]]:
        """Ids of conversations, piece by piece: the opening, each turn (role, content), and the cue."""
        around = {
            role: (_parts(turn.before, tokenizer), _parts(turn.after, tokenizer))
            for role, turn in self._turns().items()
            if turn
        }
        opening, cue = _parts(self.opening, tokenizer), _parts(self.cue, tokenizer)
        rows = [
            [opening, *([*around[role][0], self._content(text), *around[role][1]] for role, text in turns), cue]
            for turns in conversations
        ]
        return encode_rows(rows, tokenizer, tokenizer.begin)

    def answers(self, texts: Sequence[str], tokenizer: AnyTokenizer) -> list[list[int]]:
        """Ids of answers, as they stand behind the cue; each ends with the end token."""
        cue, after = _parts(self.cue, tokenizer), _parts(self.assistant.after, tokenizer)
        found = []
        if tokenizer.end_id not in after and after and isinstance(after[-1], str) and not after[-1].strip():
            after = after[:-1]  # the space between turns
        for _, ids in encode_rows([[cue, [self._content(text), *after]] for text in texts], tokenizer):
            end = ids.index(tokenizer.end_id) if tokenizer.end_id in ids else len(ids)
            found.append([*ids[:end], tokenizer.end_id])
        return found

    def _content(self, text: str) -> str:
        return text.strip() if self.strip else text

    def _turn(self, role: str) -> Turn:
        turn = self._turns()[role]
        assert turn is not None, "conversations are checked"
        return turn

    def _turns(self) -> dict[str, Turn | None]:
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


def encode_rows(
    texts: Sequence[Sequence[list[Part]]], tokenizer: AnyTokenizer, before: Sequence[int] = ()
) -> list[list[list[int]]]:
    """Ids of texts that are made of pieces, piece by piece; each is tokenised as what follows the one before it.

    Args:
        texts: of each text its pieces, made of special tokens and text.
        tokenizer: of the model.
        before: special tokens before each of the texts.
    """
    flat: list[tuple[list[Part], bool, int]] = []  # the piece, whether it continues text, special tokens put before it
    for pieces in texts:
        last: Part | None = before[-1] if before else None
        for piece in pieces:
            begins = bool(piece) and isinstance(piece[0], str)
            behind = [last] if begins and isinstance(last, int) else []
            flat.append(([*behind, *piece], begins and isinstance(last, str), len(behind)))
            last = next((part for part in reversed(piece) if part != ""), last)
    ids: list[list[int]] = [[]] * len(flat)
    for continued in (False, True):
        places = [i for i, one in enumerate(flat) if one[1] == continued]
        rows = tokenizer.encode_parts([flat[i][0] for i in places], continued=continued)
        for i, row in zip(places, rows, strict=True):
            ids[i] = row[flat[i][2] :]
    found = iter(ids)
    return [[next(found) for _ in pieces] for pieces in texts]


def _parts(strings: Sequence[str], tokenizer: AnyTokenizer) -> list[Part]:
    """The strings of a template: ids for names of special tokens, other text as it is."""
    found = ((string, tokenizer.special_id(string)) for string in strings)
    return [string if token is None else token for string, token in found]
