"""Real worker processes, from the side of the event loop."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sfumato.model.bundle import find_bundle
from sfumato.serve.engine import Job
from sfumato.serve.worker import WorkerConfig
from sfumato.serve.workers import Busy, WorkerLost, Workers


def serve(config: WorkerConfig, test: Callable[[Workers], Awaitable[None]], **options) -> None:
    async def main() -> None:
        workers = Workers(config, **options)
        await workers.start()
        try:
            await asyncio.wait_for(test(workers), 60)
        finally:
            await workers.stop(0)

    with ThreadPoolExecutor(1) as thread:  # a browser's test leaves a running event loop in this one
        thread.submit(lambda: asyncio.run(main())).result()


def job(workers: Workers, prompt: str, *, id: str = "", n: int = 1, tokens: int = 12, trace: bool = True) -> Job:
    front, version = workers.prepare("m")
    plan, row = front.plan({}), front.row(prompt, tokens)
    steps = plan.steps(row.room)
    rows = [plan.request(row.tokens, row.editable, steps=steps, seed=seed, trace=trace) for seed in range(n)]
    return Job(id or prompt, "m", version, tuple(rows))


async def written(workers: Workers, job: Job) -> dict[int, tuple[int, ...]]:
    return {u.row: u.event.tokens async for u in workers.run(job) if u.event and u.event.tokens is not None}


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not come true")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_bundle("tiny"), tmp_path / "model"))


def test_jobs_cancelling_and_a_full_queue(folder: Path):
    async def test(workers: Workers) -> None:
        one, two = await asyncio.gather(
            written(workers, job(workers, "Tom", n=3)), written(workers, job(workers, "Lily"))
        )
        assert set(one) == {0, 1, 2} and len(two) == 1
        assert (await written(workers, job(workers, "Lily", id="again")))[0] == two[0]
        await until(lambda: workers.stats().batch.total() > 0)

        long = workers.run(job(workers, "Tom", id="long", n=2, tokens=200))
        await anext(long)
        assert workers.outstanding == 2
        with pytest.raises(Busy):
            await anext(workers.run(job(workers, "Tom", id="too many", n=6)))
        await long.aclose()
        assert workers.outstanding == 0

        part = workers.run(job(workers, "Tom", id="part", n=2, tokens=100))
        await anext(part)
        assert workers.cancel("part", 1)
        rows = {update.row async for update in part}
        assert rows == {0} and not workers.cancel("part")
        whole = workers.run(job(workers, "Tom", id="whole", tokens=100))
        await anext(whole)
        workers.cancel("whole")
        assert [update async for update in whole] == []

    serve(WorkerConfig({"m": str(folder)}, threads=1, rows=4), test, queue_rows=1)


def test_a_model_is_swapped_while_it_writes(folder: Path):
    async def test(workers: Workers) -> None:
        running = asyncio.create_task(written(workers, job(workers, "Tom", n=6, tokens=40)))
        assert await workers.reload("m") is False
        before = workers.versions["m"]
        config = folder / "config.json"
        config.write_text(config.read_text() + "\n")
        after = [asyncio.create_task(written(workers, job(workers, "Ben", id=f"b{i}"))) for i in range(4)]
        assert await workers.reload("m") is True
        assert workers.versions["m"] != before
        late = await written(workers, job(workers, "Ben", id="late"))
        assert len(await running) == 6
        assert all([await task == late for task in after])
        next(folder.glob("model*.safetensors")).write_bytes(b"broken")
        with pytest.raises(ValueError, match="damaged"):
            await workers.reload("m")
        assert await written(workers, job(workers, "Ben", id="still")) == late

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_a_worker_that_is_killed_is_replaced(folder: Path):
    async def test(workers: Workers) -> None:
        updates = workers.run(job(workers, "Tom", tokens=200))
        await anext(updates)
        process = workers._workers[0].process
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            async for _ in updates:
                pass
        assert not workers.ready
        with pytest.raises(WorkerLost):
            await anext(workers.run(job(workers, "Tom", id="meanwhile")))
        await until(lambda: workers.ready)
        assert workers.lost == 1 and workers.outstanding == 0
        assert await written(workers, job(workers, "Tom", id="again"))

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_what_cannot_be_sent_ends_itself_and_nothing_else(folder: Path, caplog: pytest.LogCaptureFixture):
    async def test(workers: Workers) -> None:
        bad = job(workers, "Tom", id="bad")
        bad = replace(bad, rows=(replace(bad.rows[0], sampler=lambda: None),))
        with pytest.raises(WorkerLost, match="cannot be handed"):
            await anext(workers.run(bad))
        assert await written(workers, job(workers, "Tom", id="good")) and workers.outstanding == 0
        assert "cannot be handed" in caplog.text

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_a_model_that_cannot_be_loaded_is_one_line(folder: Path):
    next(folder.glob("model*.safetensors")).write_bytes(b"broken")

    async def nothing(workers: Workers) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(ValueError, match="truncated or damaged weights"):
        serve(WorkerConfig({"m": str(folder)}, threads=1), nothing)
