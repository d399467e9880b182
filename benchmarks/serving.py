"""What the benchmarks of the server share: a server process, clients that ask it, quantiles of what they waited."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import httpx

J = TypeVar("J")


@contextlib.contextmanager
def server(model: str, *flags: str) -> Iterator[str]:
    """A server process of its own; gives its address."""
    words = [sys.executable, "-m", "sfumato", "serve", "--model", model, "--port", "0", *flags]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " at http" not in line:
            raise SystemExit(f"the server did not start: {line!r}")
        yield line.rsplit(" at ", 1)[1].strip()
    finally:
        process.terminate()
        process.wait(60)


async def by_clients(
    address: str, jobs: Iterable[J], clients: int, ask: Callable[[httpx.AsyncClient, J], Awaitable[Any]]
) -> dict[str, Any]:
    """Many clients, each with one request after the other: seconds in all, and what was answered to each job."""
    left, answers = iter(jobs), {}

    async def client() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=300) as http:
            for job in left:
                answers[job] = await ask(http, job)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return {"seconds": time.perf_counter() - start, "answers": answers}


def quantile(ordered: Sequence[float], percent: int) -> float:
    """The value that so many percent are not above."""
    return ordered[min(len(ordered) - 1, -(-percent * len(ordered) // 100) - 1)] if ordered else float("nan")
