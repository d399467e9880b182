"""What servers behind one address must agree about. A server that is alone at its address agrees with itself."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from sfumato.serve.auth import RateLimit
from sfumato.serve.memory import Memory, Texts


class Peers(Protocol):
    """The other servers at this address, and what all of them share."""

    name: str
    """Of this server; empty = there are no others."""

    async def admit(self, owner: str) -> None:
        """Count a request.

        Raises:
            ApiError: 429, too many of this owner's.
        """
        ...

    async def remember(self, response_id: str, owner: str, texts: Texts) -> None:
        """Keep the texts of a response, for feedback."""
        ...

    async def recall(self, response_id: str, owner: str) -> Texts:
        """The texts of a response of this owner's, whoever wrote it; none if it is not known."""
        ...

    async def ask(self, question: str, *words: str, wait: float = 2.0) -> dict[str, Any]:
        """What the others answer (`facts.told`), by name, without those who say nothing in `wait` seconds."""
        ...


@dataclass
class Alone:
    """No others."""

    rate: RateLimit
    memory: Memory = field(default_factory=Memory)
    name: str = ""

    async def admit(self, owner: str) -> None:
        """Count a request."""
        self.rate.take(owner)

    async def remember(self, response_id: str, owner: str, texts: Texts) -> None:
        """Keep the texts of a response."""
        self.memory.add(response_id, owner, texts)

    async def recall(self, response_id: str, owner: str) -> Texts:
        """The texts of a response."""
        return self.memory.get(response_id, owner)

    async def ask(self, question: str, *words: str, wait: float = 2.0) -> dict[str, Any]:
        """Nobody answers."""
        return {}
