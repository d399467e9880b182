"""Several processes that train one model: who is who, what they tell one another, and whose the weights are.

`torchrun` starts them and says by environment variables which one each is. Of a step's rows, g = 0 ... R - 1, process r
of W works on those with g % W == r. So what a step computes does not depend on W, but for the order of additions.

Weights are sharded by FSDP2 (Zhao et al. 2023, PyTorch FSDP, 2304.11277; `fully_shard`) or copied (DDP, Li et al. 2020,
2006.15704), or both: groups of `train.shard` processes share a copy.
"""

import contextlib
import math
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from sfumato.config import ConfigError, TrainConfig
from sfumato.train import meeting

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
PATIENCE = timedelta(hours=12)  # of a process that waits for another, such as while that one tokenises; see `watchdog`


class ElsewhereError(OSError):
    """Another process has met a mistake or a fault, and tells it; what follows from it this one has to do too."""


@dataclass(frozen=True)
class Processes:
    """Those that train together, and which of them this is."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Among those of this machine."""
    shard: int = 1
    """How many share one copy of the weights."""
    mesh: "DeviceMesh | None" = None
    """(count / shard, shard) of them; None = weights are not sharded."""

    @property
    def copied(self) -> bool:
        """Whether each of several has all weights."""
        return self.count > 1 and self.mesh is None

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(numbers)
        return numbers

    def most(self, number: int) -> int:
        """The greatest of what the processes say; on the CPU, so that no accelerator is waited for."""
        if self.count == 1:
            return number
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def agreed(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all.

        Raises:
            ElsewhereError: that one could not, and raises why itself; with the same `errno`.
        """
        if self.count == 1:
            return make()
        made, error = None, None
        said: list[Any] = [None, False, None]  # what is made, whether it could not be, and the error's number
        if self.first:
            try:
                made = make()
                said = [made, False, None]
            except (ValueError, OSError) as raised:
                error, said = raised, [None, True, getattr(raised, "errno", None)]
        dist.broadcast_object_list(said, src=0)
        if error:
            raise error
        if said[1]:
            elsewhere = ElsewhereError("the first process tells why")
            elsewhere.errno = said[2]
            raise elsewhere
        return made if self.first else said[0]  # pyrefly: ignore[bad-return]

    def told(self, error: Exception | None) -> None:
        """Raise it, or `ElsewhereError` if another process has one."""
        if self.most(int(error is not None)):
            raise error or ElsewhereError("another process tells why")

    def gathered(self, mine: T) -> list[T] | None:
        """What each process says, in their order, for the first one; None for the others."""
        if self.count == 1:
            return [mine]
        found: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(mine, found)
        return found

    def in_turn(self, make: Callable[[], T]) -> T:
        """Make it in the first process, then in the first of each machine, then in the others: for what they keep.

        Raises:
            ElsewhereError: another process could not, and raises why itself.
        """
        mine = 0 if self.rank == 0 else 1 if self.local_rank == 0 else 2
        made, error = None, None
        for turn in range(3 if self.count > 1 else 1):
            if turn == mine:
                try:
                    made = make()
                except (ValueError, OSError) as raised:
                    error = raised
            self.told(error)
        return made  # pyrefly: ignore[bad-return]

    def wait(self) -> None:
        """Until all are here."""
        self.most(0)

    def rows(self, config: TrainConfig) -> tuple[int, int]:
        """How this process goes through its rows of a step: rows of a forward pass, and how many of these.

        Fewer passes are made first, then smaller ones, so that the same recipe takes the same steps anywhere.

        Raises:
            ConfigError: the rows cannot be divided among the processes.
        """
        common = math.gcd(config.accumulate, self.count)
        rows, left = divmod(config.batch, self.count // common)
        if left:
            whole = config.batch * config.accumulate
            good = [n for n in range(1, whole + 1) if config.batch % (n // math.gcd(config.accumulate, n)) == 0]
            raise ConfigError(
                f"train.batch = {config.batch} and train.accumulate = {config.accumulate}: rows that cannot be "
                f"divided among {self.count} processes; use {', '.join(map(str, good[:12]))} of them, or another batch"
            )
        return rows, config.accumulate // common

    def share(self, network: nn.Module, precision: torch.dtype, *, compiled: bool = False) -> None:
        """Keep a part of the weights only, if they are to be sharded; layers are gathered when they are run.

        Args:
            network: a denoiser, changed in place; its layers are the modules of its `nn.ModuleList`s.
            precision: that layers are gathered in; gradients are always summed in float32.
            compiled: compile each layer.
        """
        if self.mesh is None:
            return
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        gathered = precision if precision != torch.float32 else None
        policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
        rest = replace(policy, param_dtype=None)  # what enters and leaves the layers is as exact as in one process
        mesh = self.mesh["shard"] if self.shard == self.count else self.mesh
        for layers in [part for part in network.modules() if isinstance(part, nn.ModuleList)]:
            for layer in layers:
                if compiled:
                    layer.compile(dynamic=False)
                fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(network, mesh=mesh, mp_policy=rest)
        # A view of a result may be lost to the backward pass if somebody changes it in place; nobody here does.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        network.all_at_once = MethodType(_all_at_once, network)  # pyrefly: ignore[bad-argument-type]
        for name in ("embed", "all_at_once"):  # what is called in place of `forward`
            register_fsdp_forward_method(network, name)

    def collected(self, tensors: Mapping[str, Tensor], device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """In the first process each tensor as a whole, one by one; in the others none, but they have to ask too.

        On the device if they would fill no more than half of what is free there, else in main memory.
        """
        if device.type == "cuda":
            wanted = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            device = device if self.most(int(2 * wanted > torch.cuda.mem_get_info()[0])) == 0 else torch.device("cpu")
        for name, tensor in tensors.items():
            full = whole(tensor.detach())
            if self.first:
                yield name, full.to(device)

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """Of a whole tensor what belongs to this process, laid out as the sharded `like`."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(
            whole.to(like.device_mesh.device_type), like.device_mesh, like.placements, src_data_rank=None
        )


ALONE = Processes()


class Copied:
    """A forward of a network of which each process has a copy; gradients become the mean over the processes."""

    def __init__(self, forward: Callable[..., Any], network: nn.Module):
        """forward: `forward(network, ...)`, what a backward pass is made through; its tensors are positional."""
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():  # a newer name of the second setting says something else, says torch 2.13
            warnings.simplefilter("ignore", FutureWarning)
            self.wrapped = DistributedDataParallel(
                _Whole(forward, network),
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=not hasattr(network, "blocks"),  # a library's class may have more than is run
            )

    def __call__(self, network: nn.Module, *inputs: Any) -> Any:
        """As the forward itself."""
        assert network is self.wrapped.module.network
        return self.wrapped(*inputs)

    def later(self) -> contextlib.AbstractContextManager[None]:
        """Gradients of what is run in here are only added up, and sent with the next ones."""
        return self.wrapped.no_sync()


def _all_at_once(network: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """A forward of several calls as one, so that what is outside the layers is gathered once for all of them."""
    return forward(network, *inputs)


class _Whole(nn.Module):
    """A forward as a module, since DDP hooks into no other."""

    def __init__(self, forward: Callable[..., Any], network: nn.Module):
        super().__init__()
        self.network, self.run = network, forward

    def forward(self, *inputs: Any) -> Any:
        return self.run(self.network, *inputs)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, as a view."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyrefly: ignore[not-callable]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; its processes must all ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyrefly: ignore[not-callable]


def shards(tensor: Tensor) -> int:
    """How many processes share a tensor; those that have copies of it not counted."""
    mesh = getattr(tensor, "device_mesh", None)
    return 1 if mesh is None else mesh.size(mesh.ndim - 1)


_joined = [ALONE]


def here() -> Processes:
    """The processes that this one has joined."""
    return _joined[-1]


def on_wholes(work: Callable[[Tensor], Tensor], parts_GPN: Tensor, like: Tensor) -> Tensor:
    """Apply to whole matrices what works on no less, where processes hold rows of them; each works on its share.

    Two all-to-all exchanges: the first gives each process some matrices whole, the second gives the results back.

    Args:
        work: (G, M, N) to (G, M, N), matrix by matrix.
        parts_GPN: this process's rows of G matrices, which `like` is one of.
        like: a tensor that may be sharded along its rows.
    """
    mesh = getattr(like, "device_mesh", None)
    if mesh is None:
        return work(parts_GPN)
    group, shards = mesh.get_group(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    count, rows, columns = len(parts_GPN), like.shape[0], like.shape[1]
    some, most = -(-count // shards), -(-rows // shards)  # matrices of a process, and rows of a part
    sent = parts_GPN.new_zeros(some * shards, most, columns)
    sent[:count, : parts_GPN.shape[1]] = parts_GPN
    got = torch.empty_like(sent)
    dist.all_to_all_single(got, sent, group=group)
    matrix_GMN = got.view(shards, some, most, columns).transpose(0, 1).reshape(some, -1, columns)
    done = torch.zeros_like(matrix_GMN)
    mine = min(some, max(0, count - some * mesh.get_local_rank(mesh.ndim - 1)))  # the last ones may have none
    if mine:
        done[:mine, :rows] = work(matrix_GMN[:mine, :rows])
    sent = done.view(some, shards, most, columns).transpose(0, 1).reshape(-1, most, columns).contiguous()
    dist.all_to_all_single(got, sent, group=group)
    return got[:count, : parts_GPN.shape[1]]


@contextlib.contextmanager
def joined(config: TrainConfig, device: str, environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """The processes that `torchrun` has started, until they part; `ALONE` where it has not.

    Args:
        config: how many share a copy of the weights.
        device: the type of device that they compute on.
        environment: with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    Raises:
        ConfigError: settings that do not fit so many processes.
        ConnectionError: another process did not come, cannot be reached, or died.
    """
    count = int(environment.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    rank, local_rank = int(environment["RANK"]), int(environment.get("LOCAL_RANK", "0"))
    shard = config.shard or count
    if shard > 1 and config.optimizer_state == "8bit":
        raise ConfigError(
            "train.optimizer_state: 8bit is for weights that each process has all of; use float32, or train.shard = 1"
        )
    if count % shard:
        raise ConfigError(f"train.shard: {count} processes cannot be divided into groups of {shard}; use a divisor")
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    with _lost(rank, local_rank), contextlib.ExitStack() as stack:
        store, _, _ = next(rendezvous("env://", rank, count, timeout=meeting.PATIENCE))
        store = meeting.meet(store, rank, count)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
        stack.callback(dist.destroy_process_group)
        mesh = None
        if shard > 1:
            from torch.distributed.device_mesh import init_device_mesh

            mesh = init_device_mesh(device, (count // shard, shard), mesh_dim_names=("copy", "shard"))
        _joined.append(Processes(rank, count, local_rank, shard, mesh))
        stack.callback(_joined.pop)
        yield here()


@contextlib.contextmanager
def _lost(rank: int, local_rank: int) -> Iterator[None]:
    """Turn what a library says when another process died, or cannot be reached, into one line of each machine.

    Raises:
        ConnectionError: that line.
        ElsewhereError: the first process of this machine has it.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        if local_rank:
            raise ElsewhereError("the first process of this machine tells it") from error
        why = re.sub(r"\[?/\S+:\d+\]? ?", "", str(error).splitlines()[0]).partition(". This")[0]
        raise ConnectionError(
            f"process {rank} on {socket.gethostname()} has lost another, or cannot reach it ({why}); look at what that "
            "one says. Started again, the run goes on from its newest checkpoint. If machines never reach one another, "
            "name the network between them: NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME"
        ) from error
