"""How the processes of one attempt meet, through a store that remembers the attempts before.

torchrun keeps one store for a run, however often it starts the processes anew, so a fast one may read there what a slow
one's dead predecessor has said, such as an address that nobody listens at any more. Nor is there a number that tells
attempts apart: each machine counts its own restarts. So the first process names the attempt, and tells that name to
those alone who ask now.
"""

import socket
import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store

PATIENCE = timedelta(minutes=10)  # as long as torchrun waits for machines
_PAUSE = 0.02  # seconds between two looks


def meet(store: Store, rank: int, count: int, patience: timedelta = PATIENCE) -> PrefixStore:
    """A part of the store that only the processes of this attempt know; all of them call it.

    A process says under its rank what it calls itself, a word that nobody has used before; process 0 answers to that
    word with the attempt's name, which the other confirms below that name. So what a predecessor said does no harm.

    Raises:
        ConnectionError: not all came in time; process 0 says which.
    """
    name, end = uuid.uuid4().hex, time.monotonic() + patience.total_seconds()
    where = f"process {rank} of {count} on {socket.gethostname()}"
    if rank:
        store.set(f"here/{rank}", name)
        while not store.check([f"answer/{name}"]):
            _wait(end, f"{where}: process 0 has not answered in {patience.total_seconds():g} s")
        attempt = store.get(f"answer/{name}").decode()
        store.set(f"{attempt}/met/{rank}", "")
        return PrefixStore(attempt, store)
    missing = set(range(1, count))
    while missing:
        for other in sorted(missing):
            if store.check([f"{name}/met/{other}"]):
                missing.remove(other)
            elif store.check([f"here/{other}"]):
                store.set(f"answer/{store.get(f'here/{other}').decode()}", name)
        if missing:
            who = ", ".join(map(str, sorted(missing)[:8])) + ", ..." * (len(missing) > 8)
            _wait(end, f"{where}: process {who} did not come in {patience.total_seconds():g} s")
    return PrefixStore(name, store)


def _wait(end: float, else_say: str) -> None:
    if time.monotonic() > end:
        raise ConnectionError(f"{else_say}; look at what it says on its own machine")
    time.sleep(_PAUSE)
