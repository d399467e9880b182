"""A worker: a process that holds the networks and runs the engine, so that nothing else competes for its cores.

It talks to `serve.workers` over a pipe, in messages of this file; both ends are this package on this machine.
"""

import logging
import os
import queue
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from sfumato.serve.engine import Engine, Job, Probe, Reading, Stats, Update

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel

STATS_EVERY = 16  # steps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to begin."""

    models: Mapping[str, str]
    """Folder of each model, by name."""
    cores: Sequence[int] = ()
    """CPU cores that it stays on; none = wherever the system puts it."""
    threads: int = 0
    """Of a matrix product; 0 = as many as cores."""
    rows: int = 8
    batch_invariant: bool = False
    prefix_bytes: int = 1 << 28
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class Load:
    """To the worker: load this model beside what is there."""

    name: str
    path: str
    version: str


@dataclass(frozen=True)
class Loaded:
    """From the worker: the model is there, or why not."""

    name: str
    version: str
    error: str = ""
    about: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Retire:
    """To the worker: nothing more comes for this model."""

    name: str
    version: str


@dataclass(frozen=True)
class Cancel:
    """To the worker: drop a job, or one row of it."""

    job: str
    row: int | None = None


@dataclass(frozen=True)
class News:
    """From the worker: what a step brought."""

    updates: Sequence[Update]
    stats: Stats | None = None


def work(pipe: Connection, config: WorkerConfig) -> None:
    """The worker's life: until the pipe is closed or says None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if config.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, config.cores)
    import torch

    if threads := config.threads or len(config.cores):
        torch.set_num_threads(threads)
    worker = _Worker(pipe, config)
    try:
        worker.run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server is gone


class _Worker:
    """The engine, the pipe, and models that are being loaded beside the engine's steps."""

    def __init__(self, pipe: Connection, config: WorkerConfig):
        self.pipe, self.config = pipe, config
        self.engine = Engine(rows=config.rows, batch_invariant=config.batch_invariant, prefix_bytes=config.prefix_bytes)
        self.ready: queue.SimpleQueue = queue.SimpleQueue()  # what the loading threads bring

    def run(self) -> None:
        """Serve until told to stop."""
        steps, stopping, loading = 0, False, 0
        while not stopping:
            while not stopping and self.pipe.poll(0 if self.engine.busy else 0.02 if loading else None):
                message = self.pipe.recv()
                stopping = message is None
                loading += isinstance(message, Load)
                self._hear(message)
            while not self.ready.empty():
                loading -= 1
                self._take(*self.ready.get())
            if not self.engine.busy:
                continue
            updates = self.engine.step()
            steps += 1
            tell = steps % STATS_EVERY == 0 or not self.engine.busy
            if updates or tell:
                self.pipe.send(News(updates, self.engine.stats() if tell else None))

    def _hear(self, message: object) -> None:
        match message:
            case Job() | Probe() | Reading():
                if updates := self.engine.submit(message):
                    self.pipe.send(News(updates))
            case Cancel(job, row):
                self.engine.cancel(job, row)
            case Load():
                threading.Thread(target=self._load, args=(message,), daemon=True).start()
            case Retire(name, version):
                self.engine.retire(name, version)

    def _load(self, wanted: Load) -> None:
        """Read a model, in a thread of its own."""
        from sfumato.sample.language_model import LanguageModel

        try:
            model = LanguageModel.load(wanted.path, self.config.device, self.config.dtype)
            if (found := model.front.version()) != wanted.version:
                raise ValueError(f"{wanted.path}: changed while it was loaded ({found}); try again")
            self.ready.put((wanted, model, ""))
        except (ValueError, OSError) as error:
            self.ready.put((wanted, None, str(error)))
        except Exception as error:  # out of memory, say: the models that run go on
            log.exception("cannot load %s", wanted.name)
            self.ready.put((wanted, None, f"{wanted.name}: cannot load ({type(error).__name__})"))

    def _take(self, wanted: Load, model: "LanguageModel | None", error: str) -> None:
        about = {}
        if model is not None:
            self.engine.load(wanted.name, wanted.version, model)
            about = {
                "parameters": sum(p.numel() for p in model.denoiser.parameters()),
                "device": model.device.type,
                "dtype": str(model.dtype).removeprefix("torch."),
            }
        self.pipe.send(Loaded(wanted.name, wanted.version, error, about))
