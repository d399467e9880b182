"""The workers as the HTTP side sees them: jobs out, updates back, models swapped, and whoever dies replaced."""

import asyncio
import logging
import multiprocessing
import os
import queue
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from sfumato.sample.front import Front
from sfumato.serve.engine import Job, Question, Stats, Update
from sfumato.serve.worker import Cancel, Load, Loaded, News, Retire, WorkerConfig, work

RESTART_AFTER = 1.0  # seconds until a worker that died is replaced
START = "spawn"  # how a worker begins: with nothing of this process, which has threads
LINGER = 15.0  # seconds for which a model that was replaced waits for requests that are being prepared for it
_ALL = -1  # the row of news about all rows of a job

log = logging.getLogger(__name__)


class Busy(Exception):
    """The queue is full."""


class WorkerLost(Exception):
    """The worker that decoded a request died, or none is running."""


@dataclass
class _Ticket:
    """A job under way."""

    worker: "_Worker"
    rows: set[int]
    """Those that are not done."""
    updates: "asyncio.Queue[Update | None]" = field(default_factory=asyncio.Queue)
    """None only wakes who waits."""
    dropped: set[int] = field(default_factory=set)


@dataclass
class _Worker:
    """A process, and the threads that read and write its pipe."""

    number: int
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    outbox: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    rows: int = 0
    """Rows sent to it and not finished."""
    loaded: set[tuple[str, str]] = field(default_factory=set)
    alive: bool = True
    begun: bool = False
    """It has loaded all models."""
    stats: Stats = field(default_factory=Stats)


class Workers:
    """Several worker processes, each with all models.

    Everything but `__init__` belongs to one event loop.
    """

    def __init__(self, config: WorkerConfig, *, workers: int = 1, queue_rows: int = 64):
        """Plan, but start nothing.

        Args:
            config: of each worker; `cores` are divided among them.
            workers: how many processes.
            queue_rows: how many rows may wait, besides those that run, before `run` raises `Busy`.
        """
        self.config, self.count, self.queue_rows = config, workers, queue_rows
        self.paths = dict(config.models)
        """Folder of each model, by name."""
        self.fronts: dict[str, Front] = {}
        self.versions: dict[str, str] = {}
        self.about: dict[str, Mapping[str, object]] = {}
        """What the workers say of each model: parameters, device, dtype."""
        self.lost = 0
        """Workers that died so far."""
        self.turn: AbstractAsyncContextManager[None] = asyncio.Lock()
        """Who has it may load another version; where several servers share a machine, one of them at a time."""
        self._workers: dict[int, _Worker] = {}
        self._tickets: dict[str, _Ticket] = {}
        self._loads: dict[tuple[int, str, str], asyncio.Future[Loaded]] = {}
        self._past = Stats()
        self._stopping = False
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        """Read the models' descriptions, start the processes and wait until all have loaded all models.

        Raises:
            ValueError, OSError: a model cannot be used; one line.
        """
        self._loop = asyncio.get_running_loop()
        for name, path in self.paths.items():
            self.fronts[name] = await asyncio.to_thread(Front.load, path)
            self.versions[name] = self.fronts[name].version()
        try:
            await asyncio.gather(*(self._begin(number) for number in range(self.count)))
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more jobs, give those that run `grace` seconds, and end the processes."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        end = self._loop.time() + grace
        while self._tickets and self._loop.time() < end:
            await asyncio.sleep(0.02)
        for ticket in self._tickets.values():
            ticket.updates.put_nowait(Update("", _ALL, error="the server is shutting down", fault=True))
        for worker in list(self._workers.values()):
            worker.outbox.put(None)
        await asyncio.gather(*(asyncio.to_thread(_end, worker.process) for worker in self._workers.values()))
        for worker in self._workers.values():
            worker.alive = False

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""
        return not self._stopping and any(worker.alive and worker.begun for worker in self._workers.values())

    @property
    def capacity(self) -> int:
        """Rows of one request at most, all that runs and waits at a time."""
        return self.queue_rows + self.config.rows * self.count

    @property
    def outstanding(self) -> int:
        """Rows that run or wait."""
        return sum(worker.rows for worker in self._workers.values() if worker.alive)

    @property
    def running(self) -> int:
        """Rows that run, about."""
        return sum(min(worker.rows, self.config.rows) for worker in self._workers.values() if worker.alive)

    @property
    def queued(self) -> int:
        """Rows that wait, about."""
        return self.outstanding - self.running

    def stats(self) -> Stats:
        """Work done since the start, as of the last news."""
        total = self._past
        for worker in self._workers.values():
            total = total + worker.stats
        return total

    def prepare(self, name: str) -> tuple[Front, str]:
        """A model's front, to make rows with, and its version, for the job."""
        return self.fronts[name], self.versions[name]

    async def run(self, job: Job | Question) -> AsyncIterator[Update]:
        """Send a job off and give its updates until all its rows are done; closing it earlier drops the rows.

        Raises:
            Busy: too many rows wait.
            WorkerLost: nobody is there to decode, or no longer.
        """
        rows = len(job.rows) if isinstance(job, Job) else 1
        if self._stopping:
            raise WorkerLost("the server is shutting down")
        able = [w for w in self._workers.values() if w.alive and (job.model, job.version) in w.loaded]
        if not able:
            raise WorkerLost("no worker is running; try again in a moment")
        if self.queued + rows > self.queue_rows + max(0, self.config.rows * len(able) - self.running):
            raise Busy(f"{self.queued} rows wait already, {self.queue_rows} may")
        worker = min(able, key=lambda w: w.rows)
        ticket = self._tickets[job.id] = _Ticket(worker, set(range(rows)))
        worker.rows += rows
        worker.outbox.put(job)
        try:
            while ticket.rows or not ticket.updates.empty():
                update = await ticket.updates.get()
                if update is None or update.row in ticket.dropped:
                    continue
                if update.fault:
                    raise WorkerLost(update.error)
                yield update
        finally:
            del self._tickets[job.id]
            if ticket.rows:
                worker.rows -= len(ticket.rows)
                worker.outbox.put(Cancel(job.id))

    def cancel(self, job_id: str, row: int | None = None) -> bool:
        """Stop a job, or one row of it; no update of that comes any more, and `run` ends when nothing is left.

        Returns:
            Whether there was anything to stop.
        """
        ticket = self._tickets.get(job_id)
        rows = set() if ticket is None else ticket.rows & ({row} if row is not None else ticket.rows)
        if ticket is None or not rows:
            return False
        ticket.rows -= rows
        ticket.dropped |= rows
        ticket.worker.rows -= len(rows)
        ticket.worker.outbox.put(Cancel(job_id, row))
        ticket.updates.put_nowait(None)
        return True

    async def reload(self, name: str, path: str | None = None) -> bool:
        """Load a model anew from its folder; what runs finishes with the old one, what comes next gets the new one.

        Args:
            name: the model's.
            path: another folder, which is its own from now on.

        Returns:
            Whether the model has changed; if not, nothing was done.

        Raises:
            ValueError, OSError: the new model cannot be used; the old one stays.
        """
        async with self.turn:  # of two at once, the second finds nothing new
            return await self._reload(name, path or self.paths[name])

    async def _reload(self, name: str, path: str) -> bool:
        front = await asyncio.to_thread(Front.load, path)
        old, new = self.versions[name], front.version()
        if old == new:
            self.paths[name] = path
            return False
        workers = [worker for worker in self._workers.values() if worker.alive]
        replies = await asyncio.gather(*(self._load(worker, name, path, new) for worker in workers))
        # One that died of the old model, as it began, says nothing about this one; who takes its place loads this one.
        loaded = [reply for worker, reply in zip(workers, replies, strict=True) if worker.alive or worker.begun]
        if errors := [reply.error for reply in loaded if reply.error]:
            self._retire(name, new)
            raise ValueError(errors[0])
        self.fronts[name], self.versions[name], self.paths[name] = front, new, path
        if loaded:  # else no worker is alive, and the next one loads this version
            self.about[name] = loaded[0].about
        self._loop.call_later(LINGER, self._retire, name, old)
        return True

    def _retire(self, name: str, version: str) -> None:
        """Let go of a version, unless it came back meanwhile."""
        if version == self.versions[name]:
            return
        for worker in self._workers.values():
            worker.loaded.discard((name, version))
            worker.outbox.put(Retire(name, version))

    async def _begin(self, number: int) -> None:
        """Start a worker and let it load every model.

        Raises:
            ValueError, OSError: it could not; nothing of it is left.
        """
        context = multiprocessing.get_context(START)
        pipe, theirs = context.Pipe()
        cores = list(self.config.cores)[number :: self.count]
        config = replace(self.config, cores=cores or self.config.cores)
        process = context.Process(target=work, args=(theirs, config), name=f"sfumato-worker-{number}", daemon=True)
        await asyncio.to_thread(process.start)
        theirs.close()
        worker = self._workers[number] = _Worker(number, process, pipe)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        threading.Thread(target=self._write, args=(worker,), daemon=True).start()
        try:
            for name, path in list(self.paths.items()):
                reply = await self._load(worker, name, path, self.versions[name])
                if reply.error or not worker.alive:
                    raise ValueError(reply.error or "the worker died when it had loaded the models")
                self.about[name] = reply.about
        except BaseException:
            self._lose(worker)
            process.kill()
            raise
        worker.begun = True

    async def _load(self, worker: _Worker, name: str, path: str, version: str) -> Loaded:
        if not worker.alive:
            return Loaded(name, version, "the worker died while it loaded the models")
        future = self._loads[worker.number, name, version] = self._loop.create_future()
        worker.outbox.put(Load(name, path, version))
        reply = await future
        if not reply.error:
            worker.loaded.add((name, version))
        return reply

    def _read(self, worker: _Worker) -> None:
        """The reading thread of a worker's pipe."""
        try:
            while True:
                message = worker.pipe.recv()
                self._loop.call_soon_threadsafe(self._hear, worker, message)
        except (EOFError, OSError):
            try:
                self._loop.call_soon_threadsafe(self._mourn, worker)
            except RuntimeError:  # the loop is closed
                pass

    def _write(self, worker: _Worker) -> None:
        """The writing thread of a worker's pipe: a full pipe must not block the event loop."""
        while True:
            message = worker.outbox.get()
            try:
                worker.pipe.send(message)
            except OSError:
                return  # it is gone; the reading thread notices
            except Exception:  # what cannot be pickled; nothing of it was sent
                log.exception("a request cannot be handed to a worker")
                if isinstance(message, Job | Question):
                    lost = Update(message.id, _ALL, error="this request cannot be handed to a worker", fault=True)
                    self._loop.call_soon_threadsafe(self._hear, worker, News([lost]))
            if message is None:
                return

    def _hear(self, worker: _Worker, message: News | Loaded) -> None:
        if isinstance(message, Loaded):
            future = self._loads.pop((worker.number, message.name, message.version), None)
            if future and not future.done():
                future.set_result(message)
            return
        worker.stats = message.stats or worker.stats
        for update in message.updates:
            ticket = self._tickets.get(update.job)
            if ticket is None or update.row in ticket.dropped:  # cancelled meanwhile
                continue
            if update.last and update.row in ticket.rows:
                ticket.rows.remove(update.row)
                worker.rows -= 1
            ticket.updates.put_nowait(update)

    def _mourn(self, worker: _Worker) -> None:
        """A worker is gone: its requests end with an error, and another one takes its place."""
        if not worker.alive:
            return
        self._lose(worker)
        if self._stopping:
            return
        self.lost += 1
        log.error("worker %d died (exit code %s)", worker.number, worker.process.exitcode)
        if worker.begun:  # else whoever begins it tries again
            task = self._loop.create_task(self._replace(worker.number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _lose(self, worker: _Worker) -> None:
        """Tell everybody who waits for a worker that nothing more comes of it."""
        worker.alive = False
        worker.outbox.put(None)
        self._past = self._past + worker.stats
        worker.stats = Stats()
        for (number, name, version), future in list(self._loads.items()):
            if number == worker.number and not future.done():
                future.set_result(Loaded(name, version, "the worker died while it loaded the model"))
        for ticket in self._tickets.values():
            if ticket.worker is worker:
                error = Update("", _ALL, error="the worker that decoded this request died; try again", fault=True)
                ticket.updates.put_nowait(error)

    async def _replace(self, number: int) -> None:
        while not self._stopping:
            await asyncio.sleep(RESTART_AFTER)
            try:
                await self._begin(number)
                return
            except (ValueError, OSError) as error:
                log.error("cannot start worker %d again: %s", number, error)


def _end(process: multiprocessing.process.BaseProcess) -> None:
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()


def split_cores() -> tuple[list[int], list[int]]:
    """The cores for HTTP and those for the workers; both are all of them where there is only one, or where unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return [], []
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[: _quota() or len(cores)]
    return (cores[-1:], cores[:-1]) if len(cores) > 1 else (cores, cores)


def _quota() -> int:
    """How many cores' worth of time a container allows, rounded up; 0 = all it sees."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return 0 if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return 0
