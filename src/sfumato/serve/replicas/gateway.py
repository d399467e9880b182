"""The gateway: what Ray's HTTP proxy asks. It finds a replica for a request, and another one where that one is lost.

It knows nothing of the endpoints but which field names a model. Ray's proxy would answer the loss of a replica with a
plain-text 500, and would cut a stream without a word.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from ray import serve
from ray.exceptions import RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import Message, Receive, Scope, Send

from sfumato.serve.errors import RETRY_SECONDS, ApiError, Gone, unexpected
from sfumato.serve.middleware import LimitBody
from sfumato.serve.replicas.together import Together, shared_actor

TRIES = 4
"""Replicas that a request is given to, one after the other, while nothing of an answer was sent."""
ARRIVE_SECONDS = 60.0
"""Longest that a request waits for a replica that takes it."""
PAUSE = 0.25  # seconds, until the next try
AGAIN = ("worker_lost", "shutting_down")  # errors after which another replica may do better
SCOPE = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client", "server")

log = logging.getLogger("sfumato.serve")


class Lost(Exception):
    """The replica that was asked cannot answer, and may have answered in part."""


class Gateway:
    """Passes requests on to the replicas of the model that they name. The ingress deployment of Ray Serve."""

    def __init__(self, models: Sequence[Sequence[str]], rate: int, max_body: int, *handles: DeploymentHandle):
        """Know the replicas.

        Args:
            models: names of those of each group.
            rate: requests a minute for each owner, 0 = no limit.
            max_body: largest request, in bytes.
            handles: of each group.
        """
        logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
        asking = [handle.options(method_name="answer", stream=True) for handle in handles]
        self._of = {name: handle for names, handle in zip(models, asking, strict=True) for name in names}
        self._first, self._several = asking[0], len(asking) > 1
        self._draining, self.open = False, 0
        self._limited = LimitBody(self._with_body, max_body)
        application = serve.get_replica_context().app_name
        actor = shared_actor(application, rate)
        peers = Together(actor, f"gateway-{secrets.token_hex(4)}", "gateway")
        self._listening = asyncio.create_task(peers.listen(self._told))

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as an ASGI application."""
        if self._draining and scope["path"] != "/health":
            error = ApiError(503, "the server is shutting down", code="shutting_down", retry_after=10)
            return await error.response()(scope, receive, send)
        self.open += 1
        try:
            await self._limited(scope, receive, send)
        except Gone:
            pass
        finally:
            self.open -= 1

    async def _told(self, question: str, *words: str) -> Any:
        match question:
            case "drain":
                self._draining = True
                return True
            case "open":
                return self.open

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        body = (await receive())["body"] if asks else b""
        answer = _Answer(scope, receive, send)
        gone = asyncio.ensure_future(_left(receive))
        passing = asyncio.ensure_future(self._pass(scope, body, answer))
        try:
            await asyncio.wait((gone, passing), return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                raise Gone
            await passing
        except Lost:
            await answer.broken()
        finally:
            for task in (gone, passing):
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await task

    async def _pass(self, scope: Scope, body: bytes, answer: "_Answer") -> None:
        """Ask replicas until one answers.

        Raises:
            Lost: the last one did not, or did so only in part.
        """
        handle, asked = self._handle(scope, body), {key: scope[key] for key in SCOPE if key in scope}
        for attempt in range(1, TRIES + 1):
            try:
                async with aclosing(_asked(handle, asked, body)) as batches:
                    async for messages in batches:
                        if attempt < TRIES and not answer.begun and _another_may_do_better(messages):
                            raise Lost
                        await answer.take(messages)
                if not answer.ended:  # its application broke off
                    raise Lost
                return
            except Lost:
                if answer.begun or attempt == TRIES:
                    raise
                await asyncio.sleep(PAUSE * attempt)

    def _handle(self, scope: Scope, body: bytes) -> DeploymentHandle:
        """Who holds the model that a request names; else, or if that is nowhere, who holds the first one."""
        if not self._several:
            return self._first
        name = scope["path"].removeprefix("/v1/models/") if scope["path"].startswith("/v1/models/") else None
        if body:
            with suppress(ValueError, RecursionError):
                asked = json.loads(body)
                name = asked.get("model") if isinstance(asked, dict) else None
        return self._of.get(name, self._first) if isinstance(name, str) else self._first


class _Answer:
    """An answer on its way to the client; held back until there is something of its body."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self._scope, self._receive, self._send = scope, receive, send
        self._start: Message | None = None
        self._stream = self.ended = self.begun = False

    async def take(self, messages: Sequence[Message]) -> None:
        """Send messages on."""
        for message in messages:
            if message["type"] == "http.response.start":
                self._start = message
                self._stream = any(
                    key.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for key, value in message["headers"]
                )
                continue
            if self._start and not self.begun:
                self.begun = True
                await self._send(self._start)
            self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await self._send(message)

    async def broken(self) -> None:
        """Say that the rest will not come."""
        if self.ended:
            return
        message = "the replica that wrote this was lost; try again"
        error = ApiError(503, message, code="replica_lost", retry_after=RETRY_SECONDS)
        if not self.begun:
            await error.response()(self._scope, self._receive, self._send)
        elif self._stream:
            last = b"data: " + json.dumps(error.body()).encode() + b"\n\ndata: [DONE]\n\n"
            await self._send({"type": "http.response.body", "body": last, "more_body": False})
        else:
            raise ConnectionResetError(message)  # half an answer must not look like a whole one


async def _asked(
    handle: DeploymentHandle, scope: Mapping[str, Any], body: bytes
) -> AsyncGenerator[list[Message], None]:
    """What a replica answers; closing it tells the replica that nobody reads any more.

    Raises:
        Lost: it died.
        ApiError: 503, none was to be had.
    """
    answers: Any = handle.remote(scope, body)  # a generator, as the handle was made
    try:
        async with asyncio.timeout(ARRIVE_SECONDS):
            await anext(answers)
        async for messages in answers:
            yield messages
    except TimeoutError:
        raise ApiError(503, "no replica is ready", code="not_ready", retry_after=10) from None
    except BackPressureError:
        raise ApiError(503, "too many requests wait", code="busy", retry_after=RETRY_SECONDS) from None
    except TaskCancelledError:
        raise Lost from None
    except (RayError, RayServeException) as error:
        log.warning("a replica did not finish its answer: %s", type(error).__name__)
        raise Lost from None
    finally:
        answers.cancel()


def _another_may_do_better(messages: Sequence[Message]) -> bool:
    """Whether this answer is an error that is only this replica's."""
    if messages[0].get("status") != 503 or len(messages) < 2:
        return False
    with suppress(ValueError):
        return json.loads(messages[1]["body"]).get("error", {}).get("code") in AGAIN
    return False


async def _left(receive: Receive) -> None:
    """Until the client is gone; Ray raises where it has cancelled the request for that."""
    with suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass


async def _ask_gateway(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":  # it needs no notice of the beginning and the end
        return
    try:
        gateway: Any = serve.get_replica_context().servable_object
        await gateway.serve(scope, receive, send)
    except ApiError as error:
        await error.response()(scope, receive, send)
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception as error:
        await unexpected(error, "gateway").response()(scope, receive, send)


def asgi() -> Any:
    """The gateway of this process as an ASGI application."""
    return _ask_gateway
