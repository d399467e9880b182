"""Ray, for whoever spreads work over processes and machines: found or started, quiet, and stopped afterwards."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sfumato.config import ConfigError

INSTALL = "pip install 'sfumato[cluster]'"


def need_ray(what: str) -> Any:
    """The module `ray`.

    Args:
        what: needs it, in words that begin the message.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it writes past Python's logging
    try:
        import ray
    except ImportError:
        raise ConfigError(f"{what}: needs Ray, which is not installed; {INSTALL}") from None
    return ray


@contextmanager
def connected(what: str, address: str = "", cpus: int | None = None) -> Iterator[Any]:
    """The module `ray`, connected to a cluster for as long as the block runs; where we started it, it ends with us.

    Args:
        what: needs it, as in `need_ray`.
        address: of a cluster that is running: `auto`, `host:port` or `ray://host:port`; "" = that of the environment
            variable RAY_ADDRESS, else a new one of this machine alone.
        cpus: cores of a new one; None = this machine's.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    ray, address = need_ray(what), address or os.environ.get("RAY_ADDRESS", "")
    logging.getLogger("ray").setLevel(logging.ERROR)
    new: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address or "local", **new, configure_logging=False, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{what}: no Ray cluster at {address or 'this machine'} ({said[0]})") from None
    try:
        yield ray
    finally:
        ray.shutdown()
