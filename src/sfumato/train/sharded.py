"""Checkpoints of weights that several processes share: each writes its parts, and any number of processes reads them.

The files are safetensors, whose headers say where in the whole tensor a part belongs
(`torch.distributed.checkpoint`, in its Hugging Face layout).
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sfumato.train import checkpoint
from sfumato.train.parallel import PATIENCE, Processes

Like = Callable[[str, torch.Size, torch.dtype], Tensor]


class Writer:
    """Writes checkpoints while training goes on, one at a time."""

    def __init__(self, processes: Processes):
        """All processes make theirs together."""
        self.processes = processes
        # A group of its own, since training sends its messages at the same time.
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def begin(self, folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any], keep: int) -> None:
        """Copy what this process holds, and leave the writing to the background.

        Args:
            folder: of all checkpoints, the same for all processes.
            step: of this one.
            tensors: DTensors or, where all processes hold the same, plain ones.
            about: what else the checkpoint says; that of the first process is written.
            keep: how many checkpoints are kept.

        Raises:
            OSError: the one before could not be written, or this one not begun.
        """
        from torch.distributed.checkpoint import HuggingFaceStorageWriter, async_save

        self.finish()
        stack = contextlib.ExitStack()
        scratch = self.processes.agreed(lambda: stack.enter_context(checkpoint.writing(folder, step)))
        writer = HuggingFaceStorageWriter(str(scratch), save_distributed=True)
        with _quiet():
            written = async_save(dict(tensors), storage_writer=writer, process_group=self._group)
        assert isinstance(written, Future)
        self._pending = self._pool.submit(self._seal, stack, scratch, written, about)
        if self.processes.first:
            good = about["spikes"]["good"]  # to go back to
            self._pending.add_done_callback(lambda done: done.exception() or checkpoint.prune(folder, keep, good))

    def _seal(self, stack: contextlib.ExitStack, scratch: Path, written: Future, about: dict[str, Any]) -> None:
        """Make a checkpoint of the folder as soon as all processes have written into it."""
        from torch.distributed.checkpoint import CheckpointException

        with stack:
            try:
                written.result()
            except CheckpointException as error:  # of one process or more
                cause = _cause(error)
                raise OSError(getattr(cause, "errno", None), str(cause)) from None
            if self.processes.first:
                checkpoint.write_state(scratch, about)

    def finish(self) -> None:
        """Wait until the last checkpoint is complete. OSError: it could not be written."""
        error, pending, self._pending = None, self._pending, None
        if pending:
            try:
                pending.result()
            except OSError as raised:
                error = raised
        self.processes.told(error)

    def close(self) -> None:
        """Let the last checkpoint become complete; tells and asks nobody, so that a process may leave alone.

        The others write theirs in the background, whatever they wait for; if one has died, there is none.
        """
        self._pool.shutdown()


def read(folder: Path, like: Like) -> dict[str, Tensor]:
    """Of every tensor in a checkpoint what this process holds; all processes that train together call it.

    Args:
        folder: with files that one process has written, or several.
        like: from a tensor's name, size and dtype, the tensor to fill.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: a damaged or missing file.
    """
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, load

    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = {name: like(name, about.size, about.properties.dtype) for name, about in found.items()}
    try:
        with _quiet():
            load(tensors, storage_reader=reader, no_dist=True)  # each reads what it needs, and asks nobody
    except CheckpointException as error:  # which is no Exception
        cause = _cause(error)
        raise cause if isinstance(cause, OSError) else RuntimeError(str(cause)) from None
    return tensors


def _cause(error: Any) -> BaseException:
    """What the library's error is about: of what all processes met, the first that is the disk's, else the first."""
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library says about how it is used inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
