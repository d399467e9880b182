"""What every endpoint shares: the models, the workers, the limits, and the requests that are being answered."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from fastapi import Request

from sfumato.sample.front import Front
from sfumato.serve.auth import Keys
from sfumato.serve.errors import RETRY_SECONDS, ApiError, BadRequest, from_value_error
from sfumato.serve.metrics import Metrics
from sfumato.serve.peers import Peers
from sfumato.serve.workers import Workers

if TYPE_CHECKING:
    from sfumato.serve.adapting import Adapting
    from sfumato.serve.follow import Follower
    from sfumato.store.feedback import FeedbackStore

log = logging.getLogger("sfumato.serve")
P = ParamSpec("P")
T = TypeVar("T")

PREPARE_SECONDS = 10.0
"""Longest that tokenising a text and building a constraint may take, and wait until it begins."""
FIELDS = {"block": "block_length", "prompt": "prompt", "template": "template", "suffix": "suffix"} | dict.fromkeys(
    (
        *("steps", "sampler", "threshold", "factor", "entropy_bound", "top_k", "top_p", "temperature", "patience"),
        *("eta", "kappa", "remask", "corrections", "sites", "edit_threshold", "edit_steps", "clamp", "max_tokens"),
        *("regex", "choice", "grammar", "response_format", "tools", "messages", "tokens", "position", "edits"),
        *("input", "dimensions"),
    ),
    "",
)
"""Names that the package's errors begin with -> what clients call them, empty = the same."""


@dataclass(frozen=True)
class Options:
    """How the HTTP layer behaves."""

    keys: Keys = Keys()
    rate: int = 0
    """Requests a minute for each owner, 0 = no limit."""
    cors_origins: tuple[str, ...] = ()
    max_body: int = 1 << 20
    """Bytes."""
    hosts: frozenset[str] = frozenset()
    """Names that the server answers to; none = to all."""
    log_prompts: bool = False
    grace: float = 30.0
    """Seconds that running requests get at the end."""
    models: tuple[str, ...] = ()
    """Names of all models behind this address; none = those that are served here."""


@dataclass(frozen=True)
class Model:
    """A model as a request finds it; a swap while it runs changes nothing for it."""

    name: str
    front: Front
    version: str
    adapting: "Adapting | None" = None
    """Chooses settings where the request chooses none."""


@dataclass
class Service:
    """The state of the server."""

    workers: Workers
    options: Options
    peers: Peers
    feedback: "FeedbackStore | None" = None
    adapting: "Adapting | None" = None
    followers: "Mapping[str, Follower]" = field(default_factory=dict)
    """Of the models that follow a registry, by name."""
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    """The server is about to end and takes nothing new."""
    started: int = field(default_factory=lambda: int(time.time()))
    running: dict[str, str] = field(default_factory=dict)
    """The owner of each response that is being written, by its id."""

    def __post_init__(self) -> None:
        """Make the threads."""
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="prepare")
        self.disk = ThreadPoolExecutor(1, thread_name_prefix="feedback")

    def model(self, name: str | None) -> Model:
        """The model of that name; None = the first one.

        Raises:
            ApiError: 404, there is none.
        """
        fronts = self.workers.fronts
        name = next(iter(fronts)) if name is None else name
        if name not in fronts:
            names = self.options.models or fronts
            message = f"model: {name[:80]!r} is not served here; there are {', '.join(names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return Model(name, *self.workers.prepare(name), self.adapting)

    async def reload(self, name: str) -> bool:
        """Read a model anew from its folder, or take the version that is current in its registry.

        Returns:
            Whether it has changed.

        Raises:
            ValueError, OSError: the new one cannot be used; the old one stays.
        """
        follower = self.followers.get(name)
        return await (follower.look(self.workers) if follower else self.workers.reload(name))

    def cancel(self, response_id: str, owner: str) -> bool:
        """End a response of this owner's that is being written here; whether there is one."""
        return self.running.get(response_id) == owner and self.workers.cancel(response_id)

    def log_prompts(self, prompts: Sequence[object]) -> None:
        """Write down what was asked, if the operator wants that."""
        for prompt in prompts if self.options.log_prompts else ():
            log.info("prompt: %s", json.dumps(prompt))

    async def prepare(self, param: str, function: Callable[P, T], *args: P.args, **others: P.kwargs) -> T:
        """Run what may take long beside the event loop.

        Args:
            param: the field to name if it takes too long.
            function: what to run.
            args: its arguments.
            others: likewise, by their names.

        Raises:
            ApiError: 400, the request makes no sense (`ValueError`), or this took too long; 503, others did.
        """
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def work() -> T:
            loop.call_soon_threadsafe(begun.set)
            return function(*args, **others)

        future = loop.run_in_executor(self.pool, work)
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await begun.wait()
            async with asyncio.timeout(PREPARE_SECONDS):
                return await future
        except TimeoutError:
            if not begun.is_set():
                message = "too many requests are being prepared; try again in a moment"
                raise ApiError(503, message, code="busy", retry_after=RETRY_SECONDS) from None
            message = f"{param}: took more than {PREPARE_SECONDS:g} s to prepare; make it simpler"
            raise BadRequest(message, param) from None
        except ValueError as error:
            raise from_value_error(error, FIELDS) from None
        finally:
            future.cancel()  # nobody waits any more

    async def owner(self, request: Request) -> str:
        """Who asks, after the key and the rate were checked: a key's name or a client's address.

        Raises:
            ApiError: 401, 429 or 503.
        """
        owner = self.known(request)
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after=10)
        await self.peers.admit(owner)
        return owner

    def known(self, request: Request) -> str:
        """Who asks, after the key was checked.

        Raises:
            ApiError: 401.
        """
        if self.options.keys.digests:
            return self.options.keys.owner(request.headers.get("authorization"))
        return request.client.host if request.client else "local"

    def keep_learned(self) -> None:
        """Save what the choice of settings has learned, beside the event loop."""
        if self.adapting:
            self.disk.submit(_save, self.adapting)

    def close(self) -> None:
        """Let the threads and the database go."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.keep_learned()
        self.disk.shutdown(wait=True)
        if self.feedback:
            self.feedback.close()


def service(request: Request) -> Service:
    """The service of the application that answers."""
    return request.app.state.service


def _save(adapting: "Adapting") -> None:
    try:
        adapting.save()
    except OSError as error:  # it goes on learning, and is saved again
        log.error("what the controller has learned was not saved: %s", error)


def new_id(prefix: str) -> str:
    """An id that nobody can guess: who knows it may give feedback."""
    return f"{prefix}-{secrets.token_hex(12)}"


def new_seed() -> int:
    """A seed that survives JSON numbers in a browser."""
    return secrets.randbelow(2**53)
