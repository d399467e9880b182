"""A task under way: its rows run in a worker, its views follow, and it ends early when nobody waits any more."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from fastapi import Request

from sfumato.serve.engine import Job, Question, Update
from sfumato.serve.errors import RETRY_SECONDS, ApiError, BadRequest, Gone, from_value_error
from sfumato.serve.service import FIELDS, Service
from sfumato.serve.streams import RowView
from sfumato.serve.task import Task
from sfumato.serve.workers import Busy, WorkerLost


async def advance(service: Service, http: Request, task: Task) -> AsyncGenerator[int, None]:
    """Write a task's texts; gives the index of each view that changed.

    Ends after the last text, or early when the client cancels. Closing it drops the rows.

    Raises:
        ApiError: the queue is full, a row cannot be written, or the worker was lost.
        Gone: the client is not there any more; the rows are dropped.
    """
    if len(task.rows) > (most := service.workers.capacity):
        raise BadRequest(f"n: this server writes at most {most} texts at a time, got {len(task.rows)}", "n")
    service.running[task.id] = task.owner
    watch = Stopwatch(service, task)
    job = Job(task.id, task.model.name, task.model.version, task.rows, task.owner)
    try:
        async with aclosing(_written(service, http, task, job, watch)) as changes:
            async for index in changes:
                yield index
        for index, view in enumerate(task.views):
            if not view.finish:
                view.finish = "cancelled"
                yield index
        watch.done()
        await service.peers.remember(task.id, task.owner, task.texts())
    finally:
        service.running.pop(task.id, None)


async def _written(
    service: Service, http: Request, task: Task, job: Job, watch: "Stopwatch"
) -> AsyncGenerator[int, None]:
    """The views that change, until all are finished or the client cancels."""
    async with aclosing(_updates(service, http, job)) as updates:
        async for update in updates:
            view = task.views[update.row]
            if update.event is None or view.finish:
                continue
            view.take(update.event)
            watch.saw(view)
            if view.finish and not update.last:
                service.workers.cancel(task.id, update.row)
            yield update.row
            if all(view.finish for view in task.views):
                return


async def _updates(service: Service, http: Request, job: Job | Question) -> AsyncGenerator[Update, None]:
    """What a worker says of a job; what it raises is raised as an answer."""
    try:
        async with aclosing(_until(http, service.workers.run(job))) as updates:
            async for update in updates:
                if update.error:
                    raise from_value_error(ValueError(update.error), FIELDS)
                yield update
    except Busy as error:
        raise ApiError(503, str(error) or "too many requests wait", code="busy", retry_after=RETRY_SECONDS) from None
    except WorkerLost as error:
        message = str(error) or "the worker that wrote this was lost; try again"
        raise ApiError(503, message, code="worker_lost", retry_after=RETRY_SECONDS) from None


async def finished(service: Service, http: Request, task: Task) -> Task:
    """Write all of a task."""
    async with aclosing(advance(service, http, task)) as steps:
        async for _ in steps:
            pass
    return task


async def _until(http: Request, updates: AsyncIterator[Update]) -> AsyncGenerator[Update, None]:
    """Updates, for as long as the client is there.

    Raises:
        Gone: it left.
    """
    gone, following = asyncio.ensure_future(_disconnected(http)), None
    try:
        while True:
            following = asyncio.ensure_future(_next(updates))
            await asyncio.wait((following, gone), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise Gone
            if (update := following.result()) is None:
                return
            yield update
    finally:
        for waiter in (following, gone):
            if waiter and not waiter.done():
                waiter.cancel()
                with suppress(asyncio.CancelledError):
                    await waiter
        await updates.aclose()  # pyrefly: ignore[missing-attribute]


async def _next(updates: AsyncIterator[Update]) -> Update | None:
    return await anext(updates, None)


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class Stopwatch:
    """Times of a task, told to the metrics, and to who learns from them."""

    def __init__(self, service: Service, task: Task):
        """Start."""
        self._service, self._task, self._start = service, task, time.perf_counter()
        self._text = self._sentence = False

    def saw(self, view: RowView) -> None:
        """A view has changed."""
        if not self._text and view.text:
            self._text = True
            self._service.metrics.first_text(self._seconds())
        if not self._sentence and view.has_sentence():
            self._sentence = True
            self._service.metrics.first_sentence(self._seconds())

    def done(self) -> None:
        """The task is written."""
        usage, adapting = self._task.usage(), self._service.adapting
        self._service.metrics.written(self._task.model.name, usage["completion_tokens"], usage["diffusion"]["nfe"])
        if adapting and all(view.finish != "cancelled" for view in self._task.views):
            if adapting.wrote(self._task.id, self._seconds(), usage["completion_tokens"]):
                self._service.keep_learned()

    def _seconds(self) -> float:
        return time.perf_counter() - self._start


async def answer_of(service: Service, http: Request, question: Question) -> Any:
    """What the network answers to a question: an `Influence`, or the embeddings of a reading.

    Raises:
        ApiError: as `advance`.
        Gone: as `advance`.
    """
    async with aclosing(_updates(service, http, question)) as updates:
        async for update in updates:
            if update.answer is not None:
                return update.answer
    raise Gone
