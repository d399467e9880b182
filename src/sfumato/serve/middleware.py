"""What stands before every endpoint: the size of bodies, headers of safety, and the counting of answers."""

import asyncio
import re
import time
from collections.abc import Collection

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.serve.errors import ApiError, Gone, unexpected
from sfumato.serve.metrics import Metrics

BODY_SECONDS = 30.0
"""Longest that a body may take to arrive."""
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class LimitBody:
    """Reads a body before anything else does, and refuses one that is too large, whatever its header says."""

    def __init__(self, app: ASGIApp, most: int):
        """Limit bodies to `most` bytes."""
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(scope, receive)
        except TimeoutError:
            await ApiError(408, "the body did not arrive in time", code="timeout").response()(scope, receive, send)
            return
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if body is None:
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """All of it; None if the client left meanwhile."""
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and (len(said) > 18 or int(said) > self.most):
            raise self._too_large()
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.most:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than the {self.most} bytes allowed", code="request_too_large")


class CheckHost:
    """Refuses requests for another host's name.

    A server that is open to everybody on this machine would else be open to every page in its browser: a page may give
    its own name the address 127.0.0.1, and then ask as if it came from here.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]):
        """Answer to `names` only."""
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and self.names:
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            if re.sub(r":\d+$", "", host) not in self.names:
                message = "without --api-key-file this server answers only at http://localhost and http://127.0.0.1"
                await ApiError(403, message, code="wrong_host").response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Guard:
    """Sets the headers of safety, counts answers, and turns what nobody expected into an error with a number."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        """Tell `metrics` about every answer."""
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except (Gone, ClientDisconnect):
            status = status or 499  # nobody is there to read it
        except Exception as error:
            answer = unexpected(error, _path(scope))
            if not status:
                await answer.response()(scope, receive, counted)
        finally:
            path = _path(scope)
            seconds = time.perf_counter() - start if path.startswith("/v1") and scope["method"] == "POST" else None
            self.metrics.answered(path, status, seconds)


def _path(scope: Scope) -> str:
    """The route that answered, never what the client wrote."""
    return getattr(scope.get("route"), "path", "other")
