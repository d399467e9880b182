"""Running the application: on a Ray that is started for it and ends with it, or on one that is there."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from sfumato.cluster import connected

if TYPE_CHECKING:
    from sfumato.serve.replicas.plan import Plan

NAME = "sfumato"


def run(plan: "Plan", host: str, port: int, address: str, out: TextIO) -> None:
    """Serve until SIGTERM or SIGINT; a second one waits for nobody.

    Args:
        plan: what is served.
        host: where to listen; of an existing cluster, each of its machines.
        port: likewise; 0 takes a free one of this machine.
        address: of a Ray cluster; empty = start one here.
        out: gets the line that says where.

    Raises:
        ValueError: it cannot start; one line.
    """
    port = _free(host, port) if not address else port or 8000
    cores = max(os.cpu_count() or 1, int(plan.most * plan.cpus + 1))  # of our own Ray, where nobody else is placed
    with connected("--replicas", address, cores, log=True):
        stopping = _signals()
        try:
            _deploy(plan, host, port)
            shown = f"[{host}]" if ":" in host else host
            names = ", ".join(name for group in plan.groups for name in group.models)
            print(f"serving {names} at http://{shown}:{port}", file=out, flush=True)
            stopping.wait()
            _drain(plan, stopping)
        finally:
            _remove(plan)


def _free(host: str, port: int) -> int:
    """The port, if it can be had.

    Raises:
        ValueError: it cannot.
    """
    from sfumato.serve.server import listen

    with listen(host, port) as sock:
        return sock.getsockname()[1]


def _signals() -> threading.Event:
    """Set by SIGTERM and SIGINT; the second one ends the wait for what runs."""
    stopping = threading.Event()

    def stop(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopping


def _deploy(plan: "Plan", host: str, port: int) -> None:
    """Start the proxy and the application, and wait until all replicas are ready.

    Raises:
        ValueError: they cannot start.
    """
    from ray import serve

    from sfumato.serve.replicas.application import application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # which the import has set
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=quiet)
    try:
        serve.run(application(plan), name=NAME, route_prefix="/", logging_config=quiet)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the replicas cannot start: {' '.join(str(error).split())[:300]}") from None


def _drain(plan: "Plan", stopping: threading.Event) -> None:
    """Take nothing new, and let what runs finish."""
    import ray
    from ray.exceptions import RayError

    from sfumato.serve.replicas.together import shared_actor

    try:
        shared = shared_actor(NAME, plan.options.rate)
        ray.get(shared.ask.remote("gateway", "drain", (), 2.0), timeout=5)
        end = time.monotonic() + plan.options.grace
        while time.monotonic() < end:
            if not any(ray.get(shared.ask.remote("gateway", "open", (), 2.0), timeout=5).values()):
                break
            time.sleep(0.1)
    except (RayError, KeyboardInterrupt):
        pass


def _remove(plan: "Plan") -> None:
    """Take the application from Ray, and Serve if nothing else is on it."""
    import ray
    from ray import serve
    from ray.exceptions import RayError

    from sfumato.serve.replicas.together import shared_actor

    with suppress(RayError, KeyboardInterrupt):
        serve.delete(NAME)
        if not serve.status().applications:
            serve.shutdown()
        ray.kill(shared_actor(NAME, plan.options.rate))
