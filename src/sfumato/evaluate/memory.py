"""Peak memory of a piece of work: the tensors that are alive at the same time, and the weights."""

from collections.abc import Callable
from typing import Any
from weakref import finalize

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sfumato.model.transformer import Denoiser


def peak_memory(work: Callable[[], Any], denoiser: Denoiser, device: torch.device) -> int | None:
    """Do it, and give the bytes that it needed at most, the network's weights included.

    On a CUDA device the allocator's own count; on the CPU the sum of all tensors alive, which leaves out what a kernel
    uses inside and the interpreter itself (a process's own peak would count everything that ever ran in it). Slows the
    work down on the CPU: do not time it.

    Returns:
        Bytes; None on a device that does not tell.
    """
    weights = weight_bytes(denoiser)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before + weights
    if device.type != "cpu":
        work()
        return None
    with _Live() as live:
        work()
    return live.peak + weights


def weight_bytes(denoiser: Denoiser) -> int:
    """Bytes of a network's tensors, quantised ones among them."""
    return sum(tensor.nbytes for kind in ("parameters", "buffers") for tensor in getattr(denoiser, kind, list)())


class _Live(TorchDispatchMode):
    """Adds up the memory behind the tensors that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in given | self._known:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
