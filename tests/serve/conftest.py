"""A real worker process with the bundled model, and applications around it, for all tests of the HTTP layer."""

import asyncio
import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ranks import CONTEXT

from sfumato.model.bundle import find_bundle
from sfumato.serve.app import create_app
from sfumato.serve.service import Options
from sfumato.serve.worker import WorkerConfig
from sfumato.serve.workers import Workers
from sfumato.text.chat import ChatTemplate


class Here:
    """An application around the session's workers, asked without a network."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, workers: Workers, options: Options | None = None, **others: Any
    ):
        self.loop, self.workers = loop, workers
        self.app = create_app(workers, options, manage=False, **others)
        self.service = self.app.state.service

    def run(self, work: Coroutine) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def ask(self, method: str, path: str, body: Any = None, **others: Any) -> httpx.Response:
        return self.run(self.asked(method, path, body, **others))

    async def asked(self, method: str, path: str, body: Any = None, **others: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=body, **others)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.ask("POST", path, body)

    def many(self, path: str, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
        """All at the same time."""

        async def together() -> list[httpx.Response]:
            return await asyncio.gather(*(self.asked("POST", path, body) for body in bodies))

        return self.run(together())

    def chunks(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """What a stream tells, without its end."""
        response = self.post(path, stream=True, **body)
        assert response.status_code == 200, response.text
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="session", autouse=True)
def soon() -> Iterator[None]:
    """Workers are forked from a process that has loaded torch; the tests of whole servers spawn theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.serve.workers.START", CONTEXT.get_start_method())
        yield


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a chat template: it knows no conversations, but answers them."""
    folder = tmp_path_factory.mktemp("models") / "talk"
    shutil.copytree(find_bundle("tiny"), folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"chat": ChatTemplate().to_dict()}), "utf-8")
    return folder


@contextlib.contextmanager
def serving(models: dict[str, str]) -> Iterator[Callable[..., Here]]:
    """Makes applications around a worker with these models, by name."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    workers = Workers(WorkerConfig(models, threads=1, dtype="float32"))
    asyncio.run_coroutine_threadsafe(workers.start(), loop).result(120)
    yield lambda options=None, **others: Here(loop, workers, options, **others)
    asyncio.run_coroutine_threadsafe(workers.stop(0), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="session")
def make(talk: Path) -> Iterator[Callable[..., Here]]:
    """Makes an application with other options; its workers are everybody's."""
    models = {name: str(find_bundle(name)) for name in ("tiny", "tiny-ar")}
    with serving(models | {"talk": str(talk)}) as made:
        yield made


@pytest.fixture(scope="session")
def served_alone() -> Callable[[dict[str, str]], contextlib.AbstractContextManager[Callable[..., Here]]]:
    """`with served_alone({name: folder}) as make:` is a worker of one's own."""
    return serving


@pytest.fixture(scope="session")
def here(make: Callable[..., Here]) -> Here:
    """The application as it is without options."""
    return make()
