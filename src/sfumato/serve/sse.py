"""Server-sent events: an answer in pieces."""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sfumato.serve.errors import ApiError, Gone, unexpected
from sfumato.serve.running import advance
from sfumato.serve.service import Service
from sfumato.serve.streams import Place, RowView
from sfumato.serve.task import Task

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
Choices = Callable[[int, RowView, str, Sequence[Place]], list[dict[str, Any]]]
"""(index, view, new text, new tokens) -> the choices of the chunks that tell it."""


class _Events(StreamingResponse):
    """Server-sent events that end their task when nobody reads them any more, whatever they are waiting for then."""

    def __init__(self, lines: AsyncGenerator[bytes, None], chunks: AsyncGenerator[dict[str, Any], None]):
        super().__init__(lines, media_type="text/event-stream", headers=HEADERS)
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.chunks):
            await super().__call__(scope, receive, send)


async def events(chunks: AsyncGenerator[dict[str, Any], None], where: str) -> StreamingResponse:
    """Chunks as server-sent events. The first one is awaited here, so that what fails before it has a status.

    Raises:
        ApiError: what the first chunk raises.
    """
    first = await anext(chunks)

    async def lines() -> AsyncGenerator[bytes, None]:
        if first:
            yield _line(first)
        try:
            async for chunk in chunks:
                yield _line(chunk)
        except Gone:
            return
        except ApiError as error:
            yield _line(error.body())
        except Exception as error:
            yield _line(unexpected(error, where).body())
        yield b"data: [DONE]\n\n"

    return _Events(lines(), chunks)


def _line(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n\n"


async def openai_chunks(
    service: Service,
    http: Request,
    task: Task,
    object_: str,
    choices: Choices,
    *,
    include_usage: bool = False,
    diffusing: bool = False,
) -> AsyncGenerator[dict[str, Any], None]:
    """A task as OpenAI's chunks: settled text as deltas; the present view beside them for those who want to watch.

    The first one is empty: it says that the rows run, and is not sent.
    """
    base: dict[str, Any] = {"id": task.id, "object": object_, "created": task.created, "model": task.model.name}
    base["system_fingerprint"] = task.model.version
    if include_usage:
        base["usage"] = None

    def present(index: int) -> dict[str, Any]:
        return base | {"choices": [], "diffusion": {"index": index, **task.views[index].shown()}}

    begin = [{}, *(present(index) for index in range(len(task.views)) if diffusing)]
    async with aclosing(advance(service, http, task)) as steps:
        async for index in steps:
            while begin:
                yield begin.pop(0)
            view = task.views[index]
            piece, places = view.delta()
            if diffusing:
                yield present(index)
            for choice in choices(index, view, piece, places):
                yield base | {"choices": [choice]}
    if include_usage or diffusing:
        last: dict[str, Any] = base | {"choices": [], "usage": task.usage()}
        yield last | ({"diffusion": {"done": True, **task.diffusion()}} if diffusing else {})
