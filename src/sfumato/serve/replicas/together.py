"""How a replica knows the others: through the actor that all of them share."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError

from sfumato.serve.errors import ApiError
from sfumato.serve.memory import Memory, Texts
from sfumato.serve.replicas.shared import Shared

NAMESPACE = "sfumato"
RETRY = 0.5  # seconds, where the shared actor is being replaced

log = logging.getLogger("sfumato.serve")


def shared_actor(application: str, rate: int) -> Any:
    """The actor of an application, which is made where there is none. It outlives whoever made it."""
    options: dict[str, Any] = {"name": f"shared-{application}-{rate}", "namespace": NAMESPACE, "lifetime": "detached"}
    options |= {"get_if_exists": True, "max_restarts": -1, "max_task_retries": 0, "num_cpus": 0}
    return ray.remote(Shared).options(**options, max_concurrency=10_000).remote(rate)


class Together:
    """The other replicas, and what all of them share. If the actor is lost, each of them goes on alone meanwhile."""

    def __init__(self, actor: Any, name: str, role: str = "replica", *, limited: bool = False):
        """Know the others through an actor.

        Args:
            actor: the one that all share.
            name: of this replica.
            role: who asks whom: replicas know replicas.
            limited: requests are counted.
        """
        self._actor, self.name, self._role, self._limited = actor, name, role, limited
        self._lately = Memory()  # what could not be told to the others

    async def admit(self, owner: str) -> None:
        """Count a request, unless nobody can."""
        refused = self._limited and await self._try(self._actor.admit.remote, owner)
        if refused:
            raise ApiError(429, refused[0], code="rate_limit_exceeded", retry_after=refused[1])

    async def remember(self, response_id: str, owner: str, texts: Texts) -> None:
        """Keep the texts of a response."""
        try:
            await self._actor.remember.remote(response_id, owner, texts)
        except RayError as error:
            log.error("a response is remembered by %s alone: %s", self.name, type(error).__name__)
            self._lately.add(response_id, owner, texts)

    async def recall(self, response_id: str, owner: str) -> Texts:
        """The texts of a response."""
        return await self._try(self._actor.recall.remote, response_id, owner) or self._lately.get(response_id, owner)

    async def ask(self, question: str, *words: str, wait: float = 2.0) -> dict[str, Any]:
        """What the others answer."""
        return await self._try(self._actor.ask.remote, self._role, question, words, wait, self.name) or {}

    async def listen(self, answer: Callable[..., Awaitable[Any]]) -> None:
        """Answer what is asked, until cancelled.

        Args:
            answer: gets the question and its words; its ValueErrors and OSErrors become the answer.
        """
        answering: set[asyncio.Task] = set()
        try:
            while True:
                try:
                    questions = await self._actor.listen.remote(self.name, self._role)
                except RayError:
                    await asyncio.sleep(RETRY)
                    continue
                for number, question, words in questions:
                    task = asyncio.create_task(self._answer(number, answer(question, *words)))
                    answering.add(task)
                    task.add_done_callback(answering.discard)
        finally:
            self._actor.leave.remote(self.name)

    async def _answer(self, number: int, work: Awaitable[Any]) -> None:
        try:
            found = await work
        except (ValueError, OSError) as error:
            found = error
        await self._try(self._actor.answer.remote, self.name, number, found)

    async def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return await call(*args)
        except RayError as error:
            log.error("what the replicas share is out of reach: %s", type(error).__name__)
            return None


class Turn:
    """Held by one replica at a time, and by one of its tasks: `async with` waits for it."""

    def __init__(self, actor: Any, name: str):
        """Take turns by an actor."""
        self._actor, self._name, self._here = actor, name, asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._here.acquire()
        taking = asyncio.ensure_future(self._take())
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:  # the actor goes on waiting for it; nobody here may take another one meanwhile
            taking.add_done_callback(lambda _: self._give_back())
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    async def _take(self) -> None:
        with suppress(RayError):  # nobody to ask: then at the same time as others
            await self._actor.take_turn.remote(self._name)

    def _give_back(self) -> None:
        self._here.release()
        self._actor.end_turn.remote(self._name)
