"""Conversations as examples to tune on: one for each answer, behind all that came before it.

An answer must not see what was said after it, in the full layout nor inside a block; so a conversation of five answers
becomes five examples. And writing goes on behind an answer's end, up to the end of the canvas; so does an example: more
end tokens follow, scored like the rest. They cost next to nothing once the end is known, and their likelihood only
lowers that of the answer, so a bound stays a bound.

The examples of a conversation share its hash: all of them are held out, or none, since each stands in the next one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sfumato import rng
from sfumato.data.cache import CHUNK, Encoded, digest
from sfumato.data.sources import DataError, Document, Pair
from sfumato.text.chat import ChatTemplate, fitting
from sfumato.text.interface import AnyTokenizer

_CANVAS = 21  # draw purpose


@dataclass(frozen=True)
class Turns:
    """How conversations become token rows."""

    template: ChatTemplate
    context: int
    """Places in a row, those of what opens a text among them."""
    block: int = 0
    """Fill up to the end of a block of so many places; 0 = to a canvas of random length; see `fill`."""
    fill: bool = True
    """Whether what is written goes on behind the end; not for models that write left to right or grow."""

    @property
    def key(self) -> str:
        """Everything that the tokens depend on, besides text and tokenizer."""
        return repr(self)

    def __call__(self, found: Iterable[Document], tokenizer: AnyTokenizer) -> Iterator[Encoded]:
        """Examples of the documents, in order.

        Raises:
            DataError: a text that is no conversation.
        """
        examples = (example for document in found for example in _examples(document, self.template))
        while chunk := list(islice(examples, CHUNK)):
            prompts = self.template.encoded([example[:-1] for example, _ in chunk], tokenizer)
            answers = self.template.answers([example[-1][1] for example, _ in chunk], tokenizer)
            for (example, hashed), prompt, answer in zip(chunk, prompts, answers, strict=True):
                yield self._row([role for role, _ in example], prompt, answer, hashed, tokenizer)

    def _row(
        self,
        roles: Sequence[str],
        encoded: Sequence[list[int]],
        answer: list[int],
        hashed: int,
        tokenizer: AnyTokenizer,
    ) -> Encoded:
        opened, room = len(tokenizer.begin), self.context - len(tokenizer.begin)
        opening, *turns, cue = encoded
        response = answer[: room - len(cue)]
        left = room - len(cue) - len(response)
        kept = fitting([len(turn) for turn in turns], roles[:-1], left - len(opening))
        prompt = [*opening, *(token for i in kept for token in turns[i])]
        prompt = [*prompt[max(0, len(prompt) - left) :], *cue]
        tokens, size = [*prompt, *response], sum(len(tokenizer.token_bytes(token)) for token in response)
        if self.fill and tokens[-1] == tokenizer.end_id:
            tokens += [tokenizer.end_id] * self._fill(opened + len(tokens), len(roles), hashed)
        return Encoded(tokens, len(prompt), size, hashed)

    def _fill(self, places: int, number: int, hashed: int) -> int:
        """End tokens behind a row of so many places, whose last is an end.

        With blocks the canvas ends with a block. Without, its length is whatever a user asks for: log-uniform between
        the answer's end and that of the context, as a function of the conversation and the answer's number in it.
        """
        if self.block:
            return min(-places % self.block, self.context - places)
        u = float(rng.uniform(hashed % 2**63, number, _CANVAS))
        return int(places * (self.context / places) ** u) - places


def _examples(document: Document, template: ChatTemplate) -> Iterator[tuple[list[tuple[str, str]], int]]:
    """For each answer of a document: its role and content behind those of the turns before it; and the hash of all."""
    first = 0
    if isinstance(document, Pair):
        prompt = (("user", document.prompt),) if isinstance(document.prompt, str) else document.prompt
        document, first = (*prompt, ("assistant", document.response)), len(prompt)
    if isinstance(document, str):
        raise DataError(
            f"expected conversations, {{messages: [...]}} or {{prompt, response}}, got the text {document[:40]!r}; "
            "name the key of the messages as the `field` of the source"
        )
    if document[0][0] == "system" and template.system is None:
        raise DataError("this model knows no system messages; leave them out of the conversations")
    if document[0][0] != "system" and template.has_system:
        document, first = (("system", template.default_system), *document), first + 1
    hashed = digest(content for _, content in document)
    for i, (role, content) in enumerate(document):
        if role == "assistant" and i >= max(1, first) and content.strip():
            yield list(document[: i + 1]), hashed
