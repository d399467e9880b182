"""Running the application: on a Ray that is started for it and ends with it, or on one that is there."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cluster import connected

if TYPE_CHECKING:
    from sfumato.serve.replicas.plan import Plan

NAME = "sfumato"
PROXY_CHECK = "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "2"
"""So that a proxy that died is replaced in seconds; for Ray Serve, before it is imported."""
RELOAD_SECONDS = 600.0
"""Longest that all replicas may take to read a model anew."""

log = logging.getLogger("sfumato.serve")


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
    os.environ.setdefault(*PROXY_CHECK)
    port = _free(host, port) if not address else port or 8000
    cores = max(os.cpu_count() or 1, int(plan.most * plan.cpus + 1))  # of our own Ray, where nobody else is placed
    with connected("--replicas", address, cores, log=True):
        if address:
            _check_free(address)
        ready, stopping, reloading = _signals()
        try:
            _deploy(plan, host, port)
            ready.set()
            shown = f"[{host}]" if ":" in host else host
            names = ", ".join(name for group in plan.groups for name in group.models)
            print(f"serving {names} at http://{shown}:{port}", file=out, flush=True)
            while not stopping.wait(0.2):
                if reloading.is_set():
                    reloading.clear()
                    _reload(plan)
            _drain(plan)
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


def _signals() -> tuple[threading.Event, threading.Event, threading.Event]:
    """One for us to set when there is something to wait for; one set by SIGTERM and SIGINT, and one by SIGHUP.

    Before the first is set, and when they come again, SIGTERM and SIGINT end everything at once: KeyboardInterrupt.
    """
    ready, stopping, reloading = threading.Event(), threading.Event(), threading.Event()

    def stop(number: int, frame: object) -> None:
        if stopping.is_set() or not ready.is_set():
            stopping.set()
            raise KeyboardInterrupt
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, frame: reloading.set())
    return ready, stopping, reloading


def _check_free(address: str) -> None:
    """Nobody else serves on a cluster, or we would take their address, and end them with us.

    Raises:
        ValueError: somebody does.
    """
    from ray import serve

    if NAME in serve.status().applications:
        raise ValueError(f"--ray-address: {address} serves already; end that first: its command, or serve shutdown")


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


def _ask(plan: "Plan", role: str, question: str, *words: str, wait: float = 2.0) -> dict[str, Any]:
    """What all replicas or gateways answer.

    Raises:
        RayError: nobody can be asked.
    """
    import ray

    from sfumato.serve.replicas.together import shared_actor

    shared = shared_actor(NAME, plan.options.rate)
    return ray.get(shared.ask.remote(role, question, words, wait), timeout=wait + 5)


def _reload(plan: "Plan") -> None:
    """Let every replica read all its models anew."""
    from ray.exceptions import RayError

    for name in (name for group in plan.groups for name in group.models):
        try:
            found = [*_ask(plan, "replica", "reload", name, wait=RELOAD_SECONDS).values()]
        except RayError as error:
            log.error("model %s: the replicas are out of reach: %s", name, type(error).__name__)
            continue
        for error in {str(one) for one in found if isinstance(one, Exception)}:
            log.error("model %s: the new one cannot be used, the old one stays: %s", name, error)
        log.warning("model %s: %s", name, "read anew" if True in found else "unchanged")


def _drain(plan: "Plan") -> None:
    """Take nothing new, and let what runs finish."""
    from ray.exceptions import RayError

    try:
        _ask(plan, "gateway", "drain")
        end = time.monotonic() + plan.options.grace
        while time.monotonic() < end:
            if not any(_ask(plan, "gateway", "open").values()):
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
