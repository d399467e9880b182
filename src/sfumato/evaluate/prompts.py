"""Texts of an evaluation harness as tokens: contexts with continuations, whole texts, and rendered conversations.

A harness knows prompts as plain text, while no text of ours is ever read as a special token. So a rendered conversation
begins with an invisible character that no other text begins with, holds another one around the names of its special
tokens, and the first one again wherever a turn begins, since each is tokenised for itself.
"""

import re
from collections.abc import Sequence

from sfumato.config import ConfigError
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import Message, encode_rows

MARK, BORDER = "\u2063", "\u2064"  # "invisible separator" and "invisible plus"
_MARKED = re.compile(f"{MARK}([^{MARK}]*){MARK}")


class Prompts:
    """Texts for one model.

    Attributes:
        prefix: tokens that open every text.
        opening: the same; where texts begin with nothing and the first token would have nothing to be predicted from,
            the end token, as lm-eval's own models take it.
        shortened: contexts so far that lost their beginning, since they were longer than the model reads.
    """

    def __init__(self, model: LanguageModel):
        """Texts for this model."""
        self.model, self.tokenizer, self.context = model, model.tokenizer, model.front.context
        self.prefix = list(model.tokenizer.begin)
        self.opening = self.prefix or [model.tokenizer.end_id] * model.process.shift
        self.shortened = 0

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, which may be a rendered conversation; without the prefix."""
        pieces: list[list[int | str]] = [[text]]
        if text.startswith(BORDER):
            pieces = [self._parts(piece) for piece in text[1:].split(BORDER)]
        (rows,) = encode_rows([pieces], self.tokenizer, self.prefix)
        return [token for row in rows for token in row]

    def render(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        """A conversation as text.

        Args:
            messages: roles and contents.
            answer: the model's turn comes next; else its turn is the last message, and goes on.

        Raises:
            ValueError: a model that knows no conversations, or what is no conversation.
        """
        template = self.model.chat_template
        if template is None:
            name = self.model.path.name if self.model.path else "this model"
            raise ConfigError(f"{name} has no chat template: it knows no conversations; leave the chat template out")
        template.check(messages)
        opened = template.opened(messages)
        turns = [self._marked(template.opening)]
        for i, message in enumerate(opened):
            turn, content = getattr(template, message["role"]), message["content"]
            content = _unmarked(content.strip() if template.strip else content)
            after = "" if not answer and i == len(opened) - 1 else self._marked(turn.after)
            turns.append(self._marked(turn.before) + content + after)
        return BORDER + BORDER.join([*turns, *([self._marked(template.cue), ""] if answer else [])])

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """What stands before a continuation, and its own tokens.

        Both are tokenised as one text, as lm-eval's own models do it: space between them belongs to the continuation,
        and a token that reaches across the border to the context. What is too long loses the context's beginning.

        Raises:
            ValueError: the continuation alone is longer than the model reads, or empty.
        """
        given = context.rstrip()
        if context.startswith(BORDER):
            continuation = _unmarked(continuation)
        continuation = context[len(given) :] + continuation
        whole, before = self.encode(given + continuation), self.encode(given)
        if not whole:
            raise ValueError("a continuation without tokens, behind an empty context: there is nothing to score")
        at = min(len(before), len(whole) - 1)
        opening = self.prefix if at else self.opening
        room = self.context - len(opening) - (len(whole) - at)
        if room < 0:
            raise ValueError(
                f"a continuation of {len(whole) - at} tokens, but the model reads {self.context}: {continuation[:40]!r}"
            )
        return self._behind(opening, whole[:at], room), whole[at:]

    def windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """A text in pieces that the model reads one by one, cut as `sfumato evaluate` does it."""
        ids, room = self.encode(text), self.context - len(self.opening)
        return [(self.opening, ids[begin : begin + room]) for begin in range(0, len(ids), room)]

    def prompt(self, context: str, max_tokens: int) -> list[int]:
        """A context to go on from: at least half of what the model reads is its, the rest is left to write in."""
        limit = self.context - max_tokens if self.model.grows else max(self.context - max_tokens, self.context // 2)
        if (room := limit - len(self.prefix)) < 0:
            raise ValueError(f"max_gen_toks: got {max_tokens}, but the model holds {self.context} tokens in all")
        ids = self.encode(context)
        return self._behind(self.prefix if ids else self.opening, ids, room)

    def _behind(self, opening: list[int], ids: list[int], room: int) -> list[int]:
        self.shortened += len(ids) > room
        return [*opening, *ids[max(0, len(ids) - room) :]]

    def _parts(self, piece: str) -> list[int | str]:
        """A piece of a rendered conversation: special tokens, and the text between them."""
        parts: list[int | str] = []
        for i, part in enumerate(_MARKED.split(piece)):
            token = self.tokenizer.special_id(part) if i % 2 else None
            parts += [part] if token is None and part else [] if token is None else [token]
        return parts

    def _marked(self, strings: Sequence[str]) -> str:
        """Strings of a template, the names of special tokens told apart from text."""
        special = (self.tokenizer.special_id(string) is not None for string in strings)
        return "".join(f"{MARK}{s}{MARK}" if known else s for s, known in zip(strings, special, strict=True))


def _unmarked(text: str) -> str:
    """Text without what would make a turn or a special token of a rendered conversation."""
    return re.sub(f"[{MARK}{BORDER}]", "", text)
