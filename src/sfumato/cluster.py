"""Ray, for whoever spreads work over processes and machines: found or started, quiet, and stopped afterwards."""

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError

INSTALL = "pip install 'sfumato[cluster]'"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
"""For Ray, before it is imported: no statistics to its makers, no chatter, and no lower priority."""
OBJECT_STORE = 100 << 20  # bytes; what we send is small
HELD = "held"  # a file that is locked for as long as its folder is needed
ATTEMPTS = 3  # Ray gives its own parts 15 seconds to start, which on a busy machine they may miss


def need_ray(what: str) -> Any:
    """The module `ray`.

    Args:
        what: needs it, in words that begin the message.

    Raises:
        ConfigError: it is not installed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError(f"{what}: needs Ray, which is not installed; {INSTALL}") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


@contextmanager
def connected(what: str, address: str = "", cpus: int | None = None, *, log: bool = False) -> Iterator[Any]:
    """The module `ray`, connected to a cluster for as long as the block runs; or longer, where it was before.

    Args:
        what: needs it, as in `need_ray`.
        address: of a cluster that is running: `auto`, `host:port` or `ray://host:port`; "" = that of the environment
            variable RAY_ADDRESS, else a new one of this machine alone, which ends with the block and leaves no files.
        cpus: cores of a new one; None = this machine's.
        log: what its processes write to standard error is written here as well.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    ray, address = need_ray(what), address or os.environ.get("RAY_ADDRESS", "")
    if log and os.environ["RAY_BACKEND_LOG_LEVEL"] == ENVIRONMENT["RAY_BACKEND_LOG_LEVEL"]:
        del os.environ["RAY_BACKEND_LOG_LEVEL"]  # every process would write that it is set
    common: dict[str, Any] = {"configure_logging": False, "logging_level": logging.ERROR, "log_to_driver": log}
    if ray.is_initialized():
        yield ray
        return
    if address:
        try:
            with _unheard():
                ray.init(address, **common)
        except Exception as error:  # of many kinds, some of them nothing but Exception
            raise ConfigError(f"{what}: no Ray cluster at {address} ({_short(error)})") from None
        try:
            yield ray
        finally:
            ray.shutdown()
        return
    with _folder() as folder:
        _start(ray, what, num_cpus=cpus, _temp_dir=folder, object_store_memory=OBJECT_STORE, **common)
        try:
            yield ray
        finally:
            ray.shutdown()


def _start(ray: Any, what: str, **settings: Any) -> None:
    """Start a cluster of this machine, which asks for a token: Ray's ports are open to the network, and run anything.

    Without one here Ray would keep one in a file that every user of the machine may read.
    """
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for left in reversed(range(ATTEMPTS)):
        try:
            with _unheard():
                ray.init("local", include_dashboard=False, **settings)
            return
        except Exception as error:
            ray.shutdown()
            if not left:
                raise ConfigError(f"{what}: cannot start Ray here ({_short(error)})") from None


@contextmanager
def _unheard() -> Iterator[None]:
    """Nothing reaches standard error, where Ray's C++ says how much it is going to say; what fails is raised anyway."""
    heard = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(heard, 2)
        os.close(heard)


def _short(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


@contextmanager
def _folder() -> Iterator[str]:
    """A folder for Ray's sockets and logs, deleted at the end; those of processes that were killed are deleted now."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > 16:  # the names of sockets must not be longer than 107 bytes, and Ray's take most of that
        base = Path("/tmp")
    for left in base.glob("sfumato-ray-*"):
        with suppress(OSError):
            if left.lstat().st_uid == os.getuid() and _given_up(left / HELD):
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="sfumato-ray-", dir=base))
    try:
        with open(folder / f".{HELD}", "wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            (folder / f".{HELD}").rename(folder / HELD)  # locked before anybody can see it
            (folder / "r").mkdir()  # which Ray opens to everybody, and nobody reaches through ours
            yield str(folder / "r")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _given_up(file: Path) -> bool:
    """Whether whoever locked a file has ended, in whichever container it ran."""
    with open(file, "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
