"""A replica: the whole server of `serve.app` with its workers, asked through Ray instead of through a socket."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray import serve
from starlette.types import Message

from sfumato.serve import facts
from sfumato.serve.app import create_app
from sfumato.serve.follow import Follower, follow_all
from sfumato.serve.replicas.plan import Group, Plan
from sfumato.serve.replicas.together import Together, Turn, shared_actor
from sfumato.serve.workers import Workers
from sfumato.store.feedback import FeedbackStore
from sfumato.store.registry import Registry

UNREADY_SECONDS = 60.0
"""How long a replica may be without a worker until it is replaced."""
WAIT_SECONDS = 30.0
"""Longest that a request waits for a worker that is being replaced."""
LEAVE_SECONDS = 2.0
"""Longest that the application may take to notice that nobody reads any more."""


class Replica:
    """Serves some models. A deployment of Ray Serve."""

    async def __init__(self, plan: Plan, group: Group):
        """Load the models of a group.

        Raises:
            ValueError, OSError: one of them cannot be used.
        """
        self.tasks: list[asyncio.Task] = []
        logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
        logging.getLogger("sfumato.serve").setLevel(logging.INFO if plan.options.log_prompts else logging.WARNING)
        vars(sys.modules["__main__"]).pop("__file__", None)  # Ray's own, which workers would read at their start
        context = serve.get_replica_context()
        actor = shared_actor(context.app_name, plan.options.rate)
        peers = Together(actor, context.replica_id.unique_id, limited=plan.options.rate > 0)
        followers = [
            Follower(name, Registry(plan.registries[name])) for name in group.models if name in plan.registries
        ]
        now = {follower.name: follower.path for follower in followers}
        models = {name: now.get(name, plan.worker.models[name]) for name in group.models}
        workers = Workers(replace(plan.worker, models=models), workers=plan.workers, queue_rows=plan.queue)
        workers.turn = Turn(actor, peers.name)
        store = FeedbackStore(plan.feedback_url) if plan.feedback_url else None
        self.app = create_app(workers, plan.options, store, followers=followers, peers=peers, manage=False)
        self.service = self.app.state.service
        await workers.start()
        self.tasks = [asyncio.create_task(work) for work in (peers.listen(self._told), follow_all(followers, workers))]
        self.ready_at = time.monotonic()

    async def check_health(self) -> None:
        """RuntimeError where no worker can be had: Ray then replaces the replica."""
        now = time.monotonic()
        if self.service.workers.ready:
            self.ready_at = now
        elif now - self.ready_at > UNREADY_SECONDS:
            raise RuntimeError(f"no worker for {UNREADY_SECONDS:g} s")

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[list[Message], None]:
        """What the application answers to a request, as messages of ASGI, those together that were there together.

        The first ones are none: they say that the request has arrived. Closing it is how a client leaves.
        """
        yield []
        if scope["method"] == "POST":
            await self._able()
        gone, told, outbox = asyncio.Event(), False, asyncio.Queue[Message | None]()

        async def receive() -> Message:
            nonlocal told
            if not told:
                told = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            outbox.put_nowait(message)

        task = asyncio.create_task(self.app({**scope, "app": self.app}, receive, send))
        task.add_done_callback(lambda _: outbox.put_nowait(None))
        try:
            ended = False
            while not ended:
                messages = [await outbox.get()]
                while not outbox.empty():
                    messages.append(outbox.get_nowait())
                ended = messages[-1] is None
                if found := [message for message in messages if message is not None]:
                    yield found
        finally:
            gone.set()
            if not task.done():
                await asyncio.wait([task], timeout=LEAVE_SECONDS)
                task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # the application has told the client
                await task

    async def _able(self) -> None:
        """Wait for a worker that is being replaced: who fails at once would look idle, and be sent even more."""
        end = time.monotonic() + WAIT_SECONDS
        while not self.service.workers.ready and time.monotonic() < end:
            await asyncio.sleep(0.1)

    async def _told(self, question: str, *words: str) -> Any:
        return await facts.told(self.service, question, *words)

    async def __del__(self) -> None:
        """End; nothing runs any more."""
        if not self.tasks:  # it did not even begin
            return
        self.service.draining = True
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.service.workers.stop(0)
        self.service.close()
