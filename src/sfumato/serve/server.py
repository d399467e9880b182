"""The server as a process: it listens, stops gracefully, and reads models anew when it is told to."""

import asyncio
import logging
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

import uvicorn

from sfumato.serve.follow import follow_all
from sfumato.serve.service import Service

log = logging.getLogger("sfumato.serve")


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes a free one.

    Raises:
        ValueError: the address cannot be had; one line.
    """
    sock = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)  # without it asyncio does not switch Nagle's algorithm off: 40 ms
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
    except OSError as error:
        if sock:
            sock.close()
        reason = error.strerror or str(error)
        raise ValueError(f"cannot listen at {host}:{port}: {reason}; choose another address: --host, --port") from None
    return sock


def run(app: object, service: Service, sock: socket.socket, out: TextIO) -> None:
    """Serve until SIGTERM or SIGINT; a second SIGINT waits for nobody.

    Raises:
        ValueError, OSError: a model cannot be used; one line.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes while models load has nothing to do
    asyncio.run(_run(app, service, sock, out))


async def _run(app: object, service: Service, sock: socket.socket, out: TextIO) -> None:
    workers = service.workers
    await workers.start()
    server = _Server(app, service, sock, out)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    following = asyncio.ensure_future(follow_all([*service.followers.values()], workers))
    try:
        await server.serve([sock])
    finally:
        following.cancel()
        await workers.stop(0)
        service.close()


class _Server(uvicorn.Server):
    """Lets running requests finish, for as long as `grace` allows."""

    def __init__(self, app: object, service: Service, sock: socket.socket, out: TextIO):
        self.service, self.sock, self.out = service, sock, out
        self.reloading: asyncio.Task | None = None
        self.ending: asyncio.Task | None = None
        super().__init__(
            uvicorn.Config(
                app,  # pyrefly: ignore[bad-argument-type]
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=int(service.options.grace) + 5,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # ours are set already, and end with exit code 0

    def end(self) -> None:
        """Stop: once gracefully, twice at once."""
        if self.should_exit:
            self.force_exit = True
            self.ending = asyncio.ensure_future(self.service.workers.stop(0))
        self.should_exit = self.service.draining = True

    def reload(self) -> None:
        """Read all models anew."""
        if self.reloading is None or self.reloading.done():
            self.reloading = asyncio.ensure_future(_reload(self.service))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.sock.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"serving {', '.join(self.service.workers.fronts)} at {address}", file=self.out, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = 0.0 if self.force_exit else self.service.options.grace
        stopping = asyncio.ensure_future(self.service.workers.stop(grace))
        await super().shutdown(sockets)
        await stopping


async def _reload(service: Service) -> None:
    for name in service.workers.fronts:
        try:
            changed = await service.reload(name)
        except (ValueError, OSError) as error:
            log.error("model %s: the new one cannot be used, the old one stays: %s", name, error)
        else:
            log.warning("model %s: %s", name, "read anew" if changed else "unchanged")
