"""Several processes that train together, started in a moment: they are forked from one that has loaded everything."""

import contextlib
import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
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
    ports = " ".join(map(str, free_ports(20)))
    pipes, processes = [], []
    for rank in range(count):
        mine, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_work, args=(theirs, rank, count, ports, work, args))
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


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def meet_again() -> None:
    """Let the processes meet at another port: they may meet at one only once."""
    port, _, left = os.environ.get("PORTS", "").partition(" ")
    os.environ |= {"MASTER_PORT": port, "PORTS": left}


def _work(pipe: Any, rank: int, count: int, ports: str, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "PORTS": ports, "GLOO_SOCKET_IFNAME": "lo"}
    meet_again()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        pipe.send((work(*args), ""))
    except BaseException:
        pipe.send((None, traceback.format_exc()))


def trained(*runs: tuple[Any, Path]) -> list[tuple[Path | None, int]]:
    """Train recipes, each into its folder."""
    from sfumato.train.loop import train

    made = []
    for recipe, out in runs:
        made.append(train(recipe, out))
        meet_again()
    return made


def left(recipe: Any, out: Path, watcher: Any) -> str:
    """Why a training ended that the first process leaves as soon as there is something to watch."""
    from sfumato.train.loop import train

    try:
        train(recipe, out, watcher=watcher)
    except (ValueError, OSError) as error:
        return type(error).__name__
    return ""


def apart(recipe: Any, folders: list[Path]) -> str:
    """What a process hears whose folder is not that of the first."""
    from sfumato.train import run
    from sfumato.train.loop import train

    os.chdir(folders[int(os.environ["RANK"])])
    os.environ["LOCAL_RANK"], run.LATE = "0", 0.2
    try:
        train(recipe, Path("run"))
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Leaving:
    """Leaves after a step, while its checkpoint is written."""

    def __init__(self, step: int):
        self.step = step

    def started(self, *about: Any) -> None:
        pass

    def stepped(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step:
            raise ValueError("somebody has seen enough")


def first_losses(recipes: list[Any], steps: int) -> list[list[float]]:
    """The losses and gradient norms of the first steps of runs."""
    from sfumato.text.tokenizer import Tokenizer
    from sfumato.train.denoising import denoising
    from sfumato.train.parallel import joined

    found = []
    for recipe in recipes:
        with joined(recipe.train, "cpu"):
            run = denoising(recipe, Tokenizer.load(recipe.tokenizer.path), steps, None)
            records = [run.step() for _ in range(steps)]
        meet_again()
        found.append([record[name] for record in records for name in ("loss", "grad_norm")])
    return found


def doubled(shapes: list[tuple[int, int, int]]) -> list[bool]:
    """Whether matrices that are held in rows are worked on whole and come back in the same rows."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from sfumato.config import TrainConfig
    from sfumato.train.parallel import joined, on_wholes

    with joined(TrainConfig(shard=1), "cpu") as processes:
        mesh, right = init_device_mesh("cpu", (processes.count,)), []
        for count, rows, columns in shapes:
            whole_GMN = torch.arange(count * rows * columns, dtype=torch.float32).view(count, rows, columns)
            parts = [distribute_tensor(one, mesh, [Shard(0)]) for one in whole_GMN]
            held = torch.stack([part.to_local() for part in parts])

            def work(matrix_GMN: Any) -> Any:  # of rows, of columns, and of the place: only right on whole ones
                return 2 * matrix_GMN + matrix_GMN.sum((1, 2), keepdim=True)

            made = on_wholes(work, held, like=parts[0])
            wanted = torch.stack([distribute_tensor(one, mesh, [Shard(0)]).to_local() for one in work(whole_GMN)])
            right.append(torch.equal(made, wanted))
    return right


def updated(rows: int, together: int) -> bool:
    """Whether Muon moves matrices that are held in rows as it moves whole ones, so many numbers at a time."""
    import torch
    from torch.distributed.tensor import Shard, distribute_tensor

    from sfumato.config import TrainConfig
    from sfumato.train import optimiser
    from sfumato.train.parallel import joined, whole

    optimiser.TOGETHER = together
    with joined(TrainConfig(), "cpu") as processes:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(2, rows, 4, generator=generator) for _ in range(3)]
        moved = []
        for share in (lambda one: distribute_tensor(one, processes.mesh["shard"], [Shard(0)]), torch.clone):
            parameters = [torch.nn.Parameter(share(value)) for value, _ in drawn]
            for parameter, (_, gradient) in zip(parameters, drawn, strict=True):
                parameter.grad = share(gradient)
            optimiser.Muon(parameters).step()
            moved.append(torch.stack([whole(parameter.detach()) for parameter in parameters]))
        return torch.allclose(*moved, atol=1e-5)


def disagreeing() -> list[str]:
    """What each process hears when the first, or another one, meets a mistake."""
    from sfumato.config import TrainConfig
    from sfumato.train.parallel import joined

    heard = []
    with joined(TrainConfig(), "cpu") as processes:

        def make(guilty: int) -> int:
            if processes.rank == guilty:
                raise ValueError(f"process {guilty} cannot")
            return processes.rank

        for act in (
            lambda: processes.agreed(lambda: make(1)),
            lambda: processes.agreed(lambda: make(0)),
            lambda: processes.in_turn(lambda: make(2)),
            lambda: processes.in_turn(lambda: make(0)),
            lambda: processes.in_turn(lambda: make(1)),
            lambda: processes.most(processes.rank),
            lambda: processes.gathered(processes.rank),
        ):
            try:
                heard.append(str(act()))
            except (ValueError, OSError) as error:
                heard.append(f"{type(error).__name__}: {error}")
    return heard
