"""What processes that torchrun has started tell: of a mistake that all of them meet, the first of each machine."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NoReturn

LAST = 10.0  # seconds that those who say nothing wait, since torchrun ends all as soon as one has ended


@contextlib.contextmanager
def told_once(*mistakes: type[Exception]) -> Iterator[None]:
    """For what all processes do alike, such as reading the recipe; `mistakes` are those that all of them meet."""
    try:
        yield
    except mistakes:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            leave()
        raise


def leave() -> NoReturn:
    """End as one that has failed, after the one that says why."""
    time.sleep(LAST)
    raise SystemExit(2)
