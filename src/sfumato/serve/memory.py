"""Recent responses, so that feedback can say which text it is about."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

MOST_RESPONSES = 10_000
MOST_CHARACTERS = 32_000_000


@dataclass(frozen=True)
class Remembered:
    """One response."""

    id: str
    model: str
    version: str
    owner: str
    kind: str
    """chat, completion, fim, edit or denoise."""
    prompt: Any
    """Text, or the messages of a conversation."""
    texts: tuple[str, ...]
    seed: int
    settings: dict[str, Any]

    def size(self) -> int:
        """Characters, about."""
        return len(str(self.prompt)) + sum(map(len, self.texts)) + 500


@dataclass
class Memory:
    """The latest responses, bounded in number and in size."""

    responses: "OrderedDict[str, Remembered]" = field(default_factory=OrderedDict)
    characters: int = 0

    def add(self, response: Remembered) -> None:
        """Remember it, and forget the oldest ones where there are too many."""
        self.responses[response.id] = response
        self.characters += response.size()
        while self.characters > MOST_CHARACTERS or len(self.responses) > MOST_RESPONSES:
            _, oldest = self.responses.popitem(last=False)
            self.characters -= oldest.size()

    def get(self, response_id: str, owner: str) -> Remembered | None:
        """A response of this owner's."""
        found = self.responses.get(response_id)
        return found if found and found.owner == owner else None
