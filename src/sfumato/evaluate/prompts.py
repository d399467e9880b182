"""Texts of an evaluation harness as tokens: contexts with continuations, whole texts, and rendered conversations.

A harness knows prompts as plain text, while a model's special tokens are ids that no text can spell. So a rendered
conversation holds their names between invisible separators (U+2063), and only those are read as special tokens.
"""

import re
from collections.abc import Mapping, Sequence

from sfumato.config import ConfigError
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import Message

MARK = "\u2063"
_MARKED = re.compile(f"{MARK}([^{MARK}]*){MARK}")


class Prompts:
    """Texts for one model.

    Attributes:
        prefix: tokens that every row begins with.
        shortened: contexts so far that lost their beginning, since they were longer than the model reads.
    """

    def __init__(self, model: LanguageModel):
        """Texts for this model."""
        self.model, self.tokenizer, self.context = model, model.tokenizer, model.front.context
        self.prefix = [model.tokenizer.start_id]
        self.shortened = 0
        self._marks = self._known_marks()

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, which may be a rendered conversation."""
        ids: list[int] = []
        for i, piece in enumerate(_MARKED.split(text)):
            if i % 2 and piece in self._marks:
                ids += self._marks[piece]
            elif piece:
                ids += self.tokenizer.encode(f"{MARK}{piece}{MARK}" if i % 2 else piece)
        return ids

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
            raise ConfigError(
                f"{name} has no chat template: leave the chat template out, or take a model that was tuned"
            )
        template.check(messages)
        opened, parts = template.opened(messages), []
        for i, message in enumerate(opened):
            turn = getattr(template, message["role"])
            goes_on = not answer and i == len(opened) - 1
            parts += [
                _marked(turn.before),
                message["content"].replace(MARK, ""),
                "" if goes_on else _marked(turn.after),
            ]
        return "".join([*parts, _marked(template.cue) if answer else ""])

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """What stands before a continuation, and its own tokens.

        Both are tokenised as one text, as lm-eval's own models do it: space between them belongs to the continuation,
        and a token that reaches across the border to the context. What is too long loses the context's beginning.

        Raises:
            ValueError: the continuation alone is longer than the model reads, or empty.
        """
        given = context.rstrip()
        continuation = context[len(given) :] + continuation
        whole, before = self.encode(given + continuation), self.encode(given)
        if not whole:
            raise ValueError("a continuation without tokens, behind an empty context: there is nothing to score")
        at = min(len(before), len(whole) - 1)
        room = self.context - len(self.prefix) - (len(whole) - at)
        if room < 0:
            raise ValueError(
                f"a continuation of {len(whole) - at} tokens, but the model reads {self.context}: {continuation[:40]!r}"
            )
        return self._behind_prefix(whole[:at], room), whole[at:]

    def windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """A text in pieces that the model reads one by one, cut as `sfumato evaluate` does it."""
        ids, room = self.encode(text), self.context - len(self.prefix)
        return [(self.prefix, ids[begin : begin + room]) for begin in range(0, len(ids), room)]

    def prompt(self, context: str, max_tokens: int) -> list[int]:
        """A context to go on from: at least half of what the model reads is its, the rest is left to write in."""
        limit = self.context - max_tokens if self.model.grows else max(self.context - max_tokens, self.context // 2)
        if (room := limit - len(self.prefix)) < 0:
            raise ValueError(f"max_gen_toks: got {max_tokens}, but the model holds {self.context} tokens in all")
        return self._behind_prefix(self.encode(context), room)

    def _behind_prefix(self, ids: list[int], room: int) -> list[int]:
        self.shortened += len(ids) > room
        return [*self.prefix, *ids[max(0, len(ids) - room) :]]

    def _known_marks(self) -> Mapping[str, list[int]]:
        template = self.model.chat_template
        if template is None:
            return {}
        marks = {"".join(template.cue): template.cue_ids}
        for role in ("system", "user", "assistant"):
            turn = getattr(template, role)
            before, after = template.around(role)
            marks |= {"".join(turn.before): before, "".join(turn.after): after}
        return {name: ids for name, ids in marks.items() if name}


def _marked(names: Sequence[str]) -> str:
    return f"{MARK}{''.join(names)}{MARK}" if names else ""
