"""The application: the endpoints, what stands before them, and the page."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.middleware.cors import CORSMiddleware

from sfumato.serve import chat, completions, denoise, embeddings, errors, feedback, operations
from sfumato.serve.auth import RateLimit
from sfumato.serve.middleware import CheckHost, Guard, LimitBody
from sfumato.serve.page import HEADERS, page_router
from sfumato.serve.peers import Alone, Peers
from sfumato.serve.reference import reference
from sfumato.serve.service import Options, Service
from sfumato.serve.workers import Workers

if TYPE_CHECKING:
    from sfumato.serve.adapting import Adapting
    from sfumato.serve.follow import Follower
    from sfumato.store.feedback import FeedbackStore

TITLE = "Sfumato"
ABOUT = "Diffusion language models behind the API of OpenAI, and what only they can do: infill, edit, denoise, watch."


def create_app(
    workers: Workers,
    options: Options | None = None,
    store: "FeedbackStore | None" = None,
    adapting: "Adapting | None" = None,
    followers: "Sequence[Follower]" = (),
    *,
    peers: Peers | None = None,
    manage: bool = True,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        workers: decode.
        options: how it behaves.
        store: where feedback goes; None = it is refused.
        adapting: chooses settings for requests that choose none; None = those are the model's own.
        followers: keep models at the current version of their registries; whoever runs the server lets them.
        peers: other servers at the same address; None = there are none.
        manage: start and stop the workers with the application; else whoever made them does.
    """
    following = {follower.name: follower for follower in followers}
    options = options or Options()
    here = Service(workers, options, peers or Alone(RateLimit(options.rate)), store, adapting, following)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if manage:
            await workers.start()
        try:
            yield
        finally:
            here.draining = True
            if manage:
                await workers.stop(0)
            here.close()

    app = FastAPI(title=TITLE, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = here
    errors.install(app)
    for room in (chat, completions, embeddings, denoise, feedback, operations):
        app.include_router(room.router)
    app.openapi = lambda: _description(app)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference(app.openapi()), headers=HEADERS)

    app.include_router(page_router())
    app.add_middleware(CheckHost, names=here.options.hosts)
    app.add_middleware(LimitBody, most=here.options.max_body)
    if here.options.cors_origins:
        origins = [*here.options.cors_origins]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Guard, metrics=here.metrics)
    return app


def _description(app: FastAPI) -> dict[str, Any]:
    """The published schema: FastAPI's, with keys, and without the status that we never send."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=TITLE, version=app.version, description=ABOUT, routes=app.routes)
    for path, methods in schema["paths"].items():
        for method in methods.values():
            method["responses"].pop("422", None)
            if path.startswith(("/v1", "/admin", "/tokenize")):
                method["security"] = [{"key": []}, {}]
    parts = schema.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    app.openapi_schema = schema
    return schema
