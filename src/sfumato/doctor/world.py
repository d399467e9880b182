"""Checks that take several processes: two of this machine on loopback, or all that torchrun has started."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from sfumato.doctor.bounded import Begun, Child, alone
from sfumato.doctor.finding import Check, Finding

_RANKS = "sfumato.doctor.ranks:among"


def loopback(patience: float) -> Iterator[Finding]:
    """Two processes on the CPU, and one for each GPU where there are several."""
    import torch

    yield from together("2 processes, CPU", "gloo", 2, patience)
    count = torch.cuda.device_count()
    if count > 1 and torch.distributed.is_nccl_available():
        yield from together(f"{count} GPUs", "nccl", count, patience)


def together(what: str, backend: str, count: int, patience: float) -> Iterator[Finding]:
    """Start so many ranks on this machine, and let them sum a tensor; called in a child, whose group they join."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**alone(os.environ), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    check = Check("", what, _RANKS, _limit(patience), {"what": what, "backend": backend, "patience": patience})
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(Child({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, leader=False))
            for rank in range(count)
        ]
        for rank in ranks:
            rank.ask(check)
        for rank in ranks:
            yield from rank.findings(check)


def everyone(environ: Mapping[str, str], patience: float, begun: Begun) -> Iterator[tuple[Check, Finding]]:
    """This process's part in a check of all ranks that torchrun has started."""
    what = f"{environ['WORLD_SIZE']} ranks of torchrun"
    check = Check("All ranks", what, _RANKS, _limit(patience), {"what": what, "patience": patience})
    begun(check)
    with Child(environ) as child:
        for finding in child.run(check):
            yield check, finding


def _limit(patience: float) -> float:
    """Seconds for the whole: to load torch, to wait for ranks, and to wait for one that gets lost on the way."""
    return 30 + 2 * patience
