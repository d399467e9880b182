"""Recent responses, so that feedback can say which text it is about."""

from collections import OrderedDict
from dataclasses import dataclass, field

from sfumato.store.records import Response

MOST_RESPONSES = 10_000
MOST_CHARACTERS = 32_000_000

Texts = tuple[Response, ...]


@dataclass
class Memory:
    """The texts of the latest responses, bounded in number and in size."""

    responses: "OrderedDict[str, tuple[str, Texts]]" = field(default_factory=OrderedDict)
    """Owner and texts, by the id of the response."""
    characters: int = 0

    def add(self, response_id: str, owner: str, texts: Texts) -> None:
        """Remember a response, and forget the oldest ones where there are too many."""
        self.responses[response_id] = owner, texts
        self.characters += _size(texts)
        while self.characters > MOST_CHARACTERS or len(self.responses) > MOST_RESPONSES:
            _, (_, oldest) = self.responses.popitem(last=False)
            self.characters -= _size(oldest)

    def get(self, response_id: str, owner: str) -> Texts:
        """The texts of a response of this owner's; none if it is not known."""
        known, texts = self.responses.get(response_id, ("", ()))
        return texts if known == owner else ()


def _size(texts: Texts) -> int:
    """Characters, about."""
    return sum(len(str(text.prompt)) + len(text.completion) + 10 * len(text.tokens) + 500 for text in texts)
