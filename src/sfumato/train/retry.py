"""Trouble with a disk that may pass: it is full, or a network file system does not answer for a while."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Say = Callable[[str], None]
"""Told one line that the user should read."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt
STAYS, PASSES, FULL = 0, 1, 2  # what trouble there is: waiting is useless, waiting helps, room helps
_FULL = ("ENOSPC", "EDQUOT", "EFBIG")
_PASSING = (
    *("EIO", "EAGAIN", "EBUSY", "EINTR", "ESTALE", "EREMOTEIO", "ENOLCK", "EPROTO", "EPIPE", "ENOTCONN", "ESHUTDOWN"),
    *("ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED"),
    *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
)


def retried(
    action: Callable[[], T], tell: Callable[[OSError, str], None], make_room: Callable[[], None] = lambda: None
) -> T:
    """Do it; after trouble that may pass, again and again after growing pauses, half a minute in all.

    Args:
        action: writes something, and may be repeated.
        tell: told of each trouble, and what is done about it.
        make_room: called where the disk is full, before the next attempt.

    Raises:
        OSError: as the last attempt raised it, or at once where waiting would not help.
    """
    for pause in PAUSES:
        try:
            return action()
        except OSError as error:
            found = kind(error)
            if found == STAYS:
                raise
            tell(error, f"trying again in {pause:g} s")
        if found == FULL:
            make_room()
        time.sleep(pause)
    return action()


def saying(say: Say) -> Callable[[OSError, str], None]:
    """Tell a trouble and what is done about it in one line."""
    return lambda error, then: say(f"{error}; {then}")


def kind(error: OSError) -> int:
    """`STAYS`, `PASSES` or `FULL`; a missing right or name, for example, does not heal by itself."""
    if error.errno in _numbers(_FULL):
        return FULL
    return PASSES if isinstance(error, (ConnectionError, TimeoutError)) or error.errno in _numbers(_PASSING) else STAYS


def _numbers(names: tuple[str, ...]) -> set[int]:
    return {getattr(errno, name) for name in names if hasattr(errno, name)}  # not every system has all
