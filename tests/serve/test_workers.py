"""Real worker processes, from the side of the event loop."""

import asyncio
import multiprocessing
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


def processes() -> set[int | None]:
    """Of this package, or of the test's neighbours."""
    return {process.pid for process in multiprocessing.active_children() if process.is_alive()}


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


def test_a_worker_that_dies_ends_requests_of_which_a_text_is_done(folder: Path):
    async def test(workers: Workers) -> None:
        updates = workers.run(job(workers, "Tom", n=2, tokens=200))
        await anext(updates)
        assert workers.cancel("Tom", 0)
        os.kill(workers._workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            async for _ in updates:
                pass

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_a_model_goes_away_and_comes_back_while_it_writes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sfumato.serve.workers.LINGER", 0)

    async def test(workers: Workers) -> None:
        running = asyncio.create_task(written(workers, job(workers, "Tom", tokens=200)))
        early = job(workers, "Ben")
        await until(lambda: workers.outstanding == 1)
        first, config = workers.versions["m"], (folder / "config.json").read_text()
        (folder / "config.json").write_text(config + "\n")
        assert sorted(await asyncio.gather(workers.reload("m"), workers.reload("m"))) == [False, True]
        (folder / "config.json").write_text(config)
        assert await workers.reload("m") and workers.versions["m"] == first
        assert not running.done()
        await until(lambda: len(workers._workers[0].loaded) == 1)
        assert await written(workers, early) and await running

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_a_request_that_was_made_ready_before_a_swap_is_written(folder: Path):
    async def test(workers: Workers) -> None:
        early = job(workers, "Ben")
        config = folder / "config.json"
        config.write_text(config.read_text() + "\n")
        assert await workers.reload("m") and workers.versions["m"] != early.version
        assert await written(workers, early)

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_a_worker_that_cannot_begin_again_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("sfumato.serve.workers.RESTART_AFTER", 0.1)
    before = processes()

    async def test(workers: Workers) -> None:
        first = workers._workers[0].process
        config = folder / "config.json"
        config.write_text(config.read_text() + "\n")  # not the model that is served any more
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: caplog.text.count("cannot start worker 0 again") == 2)
        assert len(processes() - before) <= 1
        assert not workers.ready
        assert await workers.reload("m")
        await until(lambda: workers.ready)
        assert await written(workers, job(workers, "Tom"))

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_a_worker_that_dies_as_it_begins_is_replaced_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sfumato.serve.workers.RESTART_AFTER", 0.1)
    before = processes()

    async def test(workers: Workers) -> None:
        first = workers._workers[0]
        os.kill(first.process.pid, signal.SIGKILL)
        await until(lambda: workers._workers[0] is not first)
        os.kill(workers._workers[0].process.pid, signal.SIGKILL)
        await until(lambda: workers.ready)
        await asyncio.sleep(0.5)
        assert len(processes() - before) == 1
        assert workers.lost == 2

    serve(WorkerConfig({"m": str(folder)}, threads=1), test)


def test_a_container_s_share_of_the_cores_is_kept(monkeypatch: pytest.MonkeyPatch):
    from sfumato.serve import workers

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for quota, http, theirs in ((0, [7], [*range(7)]), (2, [1], [0]), (1, [0], [0])):
        monkeypatch.setattr(workers, "_quota", lambda quota=quota: quota)
        assert workers.split_cores() == (http, theirs)
