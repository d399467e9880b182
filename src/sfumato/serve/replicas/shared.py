"""What the replicas share: an actor that remembers responses, counts requests, and passes questions among them.

Replicas cannot be called one by one through Ray Serve, which picks one for each request. So each of them waits here for
questions (`listen`), and whoever has one for all the others asks it here.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sfumato.serve.auth import RateLimit
from sfumato.serve.errors import ApiError
from sfumato.serve.memory import Memory, Texts

LISTEN = 3.0  # seconds for which a replica waits at a time; one that was not heard of for three times as long is gone

Question = tuple[int, str, tuple[str, ...]]
"""Number, what is asked, words."""


@dataclass
class _Listener:
    role: str
    questions: "asyncio.Queue[Question]" = field(default_factory=asyncio.Queue)
    seen: float = field(default_factory=time.monotonic)


class Shared:
    """The state of all replicas together; an actor of Ray, whose methods run in one event loop."""

    def __init__(self, rate: int):
        """With a limit of requests a minute for each owner, 0 = none."""
        self._rate, self._memory = RateLimit(rate), Memory()
        self._listeners: dict[str, _Listener] = {}
        self._numbers = itertools.count()
        self._open: dict[tuple[int, str], asyncio.Future] = {}
        self._turn, self._turns = "", asyncio.Condition()

    async def admit(self, owner: str) -> tuple[str, int] | None:
        """Count a request; what is wrong and the seconds to wait, where there are too many."""
        try:
            self._rate.take(owner)
        except ApiError as error:
            return error.message, error.retry_after
        return None

    async def remember(self, response_id: str, owner: str, texts: Texts) -> None:
        """Keep the texts of a response."""
        self._memory.add(response_id, owner, texts)

    async def recall(self, response_id: str, owner: str) -> Texts:
        """The texts of a response of this owner's; none if it is not known."""
        return self._memory.get(response_id, owner)

    async def listen(self, name: str, role: str) -> list[Question]:
        """What is asked of a listener, as soon as something is; nothing after a while: it should listen again then."""
        here = self._listeners.setdefault(name, _Listener(role))
        here.seen = time.monotonic()
        self._bury()
        try:
            async with asyncio.timeout(LISTEN):
                found = [await here.questions.get()]
        except TimeoutError:
            return []
        while not here.questions.empty():
            found.append(here.questions.get_nowait())
        return found

    async def answer(self, name: str, number: int, answer: Any) -> None:
        """What a listener says to a question."""
        future = self._open.get((number, name))
        if future and not future.done():
            future.set_result(answer)

    async def leave(self, name: str) -> None:
        """A listener ends."""
        self._listeners.pop(name, None)
        self._bury()

    async def ask(self, role: str, question: str, words: Sequence[str], wait: float, but: str = "") -> dict[str, Any]:
        """What all listeners of a role answer, except one, by their names."""
        number = next(self._numbers)
        asked = {name: listener for name, listener in self._listeners.items() if listener.role == role and name != but}
        futures = {name: asyncio.get_running_loop().create_future() for name in asked}
        self._open.update({(number, name): future for name, future in futures.items()})
        for listener in asked.values():
            listener.questions.put_nowait((number, question, tuple(words)))
        try:
            if futures:
                await asyncio.wait(futures.values(), timeout=wait)
            found = {name: future.result() for name, future in futures.items() if future.done()}
            return {name: answer for name, answer in found.items() if answer is not None}
        finally:
            for name in futures:
                del self._open[number, name]

    async def take_turn(self, name: str) -> None:
        """Wait until nobody else loads a model."""
        async with self._turns:
            while self._turn not in ("", name) and self._turn in self._listeners:
                try:
                    async with asyncio.timeout(LISTEN):
                        await self._turns.wait()
                except TimeoutError:
                    self._bury()
            self._turn = name

    async def end_turn(self, name: str) -> None:
        """Let the next one load."""
        async with self._turns:
            if self._turn == name:
                self._turn = ""
            self._turns.notify_all()

    def _bury(self) -> None:
        """Forget the listeners that are gone, and what was asked of them."""
        now = time.monotonic()
        for name, listener in list(self._listeners.items()):
            if now - listener.seen > 3 * LISTEN:
                del self._listeners[name]
        for (_, name), future in self._open.items():
            if name not in self._listeners and not future.done():
                future.set_result(None)
