"""Running the application: on a Ray that is started for it and ends with it, or on one that is there."""

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from sfumato.serve.replicas.plan import Plan

NAME = "sfumato"
OBJECT_STORE = 100 << 20  # bytes; messages are small
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}
"""For Ray, before it is imported: no statistics to its makers, plain lines in the log, and no lower priority."""

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
    port = _free(host, port) if not address else port or 8000
    with _ray(address, plan):
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


@contextmanager
def _ray(address: str, plan: "Plan") -> Iterator[None]:
    """A connection to Ray; without an address, to one that ends with the block and leaves no files."""
    private = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # who else is on this machine
    for name, value in (ENVIRONMENT | ({} if address else private)).items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    common: dict[str, Any] = {"logging_level": logging.ERROR, "configure_logging": True}
    if address:
        try:
            ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise ValueError(f"--ray-address {address}: {_line(error)}; has it tokens? RAY_AUTH_MODE=token") from None
        try:
            yield
        finally:
            ray.shutdown()
        return
    with _folder() as folder:
        cores = max(os.cpu_count() or 1, int(plan.most * plan.cpus + 1))  # here nobody but us is to be placed
        try:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                _temp_dir=folder,
                **common,
            )
        except Exception as error:  # Ray has none of its own for this
            raise ValueError(f"cannot start Ray here ({_line(error)}); without --replicas it is not needed") from None
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _folder() -> Iterator[str]:
    """A folder for Ray's sockets and logs, deleted at the end; those of servers that were killed are deleted now."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > 16:  # the names of sockets must not be longer than 107 bytes, and Ray's take most of that
        base = Path("/tmp")
    for left in base.glob(f"{NAME}-[0-9]*-*"):
        with suppress(OSError, ValueError):
            if left.stat().st_uid == os.getuid() and not _alive(int(left.name.split("-")[1])):
                shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{NAME}-{os.getpid()}-", dir=base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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
        raise ValueError(f"the replicas cannot start: {_line(error)}") from None


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
