"""Several processes that train together, started in a moment: they are forked from one that has loaded everything."""

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "torch.distributed.fsdp", "torch.distributed.checkpoint", "sfumato.train.loop"]
)
LIMIT = 120  # seconds


def together(count: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work(*args)` returns in each of so many processes, by rank; its error is raised here.

    `work` is a function of a module, and processes are told who they are by the variables that torchrun sets.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    pipes, processes = [], []
    for rank in range(count):
        mine, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_work, args=(theirs, rank, count, port, work, args))
        process.start()
        theirs.close()
        pipes.append(mine)
        processes.append(process)
    try:
        found = [_answer(pipe, rank) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    errors = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(found) if error]
    assert not errors, "\n".join(errors)
    return [made for made, _ in found]


def _answer(pipe: Any, rank: int) -> tuple[Any, str]:
    try:
        return pipe.recv() if pipe.poll(LIMIT) else (None, f"nothing for {LIMIT} s")
    except EOFError:
        return None, "it died"


def _work(pipe: Any, rank: int, count: int, port: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        pipe.send((work(*args), ""))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
