"""Streams whose reader goes away, asked as a server asks."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

BODY = {"prompt": "Tom", "max_tokens": 200, "seed": 1, "sampler": "left_to_right", "stream": True, "diffusing": True}


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What is freed must not be freed by chance."""
    gc.disable()
    yield
    gc.enable()


async def leave(here: Any, leaving: asyncio.Event, version: str, sent: Callable[[int], Any]) -> None:
    """A request whose reader goes away at an event; `sent` is awaited at each message to it."""
    body, asked, count = json.dumps(BODY).encode(), False, 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        await sent(count)

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": version}, "http_version": "1.1"}
    scope |= {"method": "POST", "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b""}
    scope |= {"root_path": "", "scheme": "http", "server": ("test", 80), "client": ("1.2.3.4", 5)}
    await here.app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)


def test_who_leaves_without_having_read_everything_frees_the_rows(here):
    async def test() -> None:
        leaving = asyncio.Event()

        async def slow(count: int) -> None:
            if count == 3:
                leaving.set()
                await asyncio.Event().wait()

        await leave(here, leaving, "2.3", slow)
        assert here.service.running == {} and here.workers.outstanding == 0

    here.run(test())


def test_a_connection_that_breaks_is_no_failure_of_ours(here, caplog: pytest.LogCaptureFixture):
    async def test() -> None:
        async def broken(count: int) -> None:
            if count == 3:
                raise OSError("gone")

        await leave(here, asyncio.Event(), "2.4", broken)
        assert here.service.running == {} and here.workers.outstanding == 0

    here.run(test())
    assert caplog.text == ""
