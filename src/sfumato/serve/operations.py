"""What runs the server and looks at it: models, tokens, health, numbers, cancelling and reloading."""

import logging

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sfumato.serve.errors import ApiError, BadRequest
from sfumato.serve.facts import counts, facts, metrics_text, summary
from sfumato.serve.metrics import merged
from sfumato.serve.replies import (
    Cancelled,
    ControllerReply,
    Health,
    ModelFacts,
    ModelList,
    Reloaded,
    Reset,
    Tokens,
    answers,
)
from sfumato.serve.schemas import CancelRequest, ReloadRequest, ResetRequest, TokenizeRequest
from sfumato.serve.service import Service, service

RELOAD_SECONDS = 600.0
"""Longest that other servers at the same address may take, one after the other, to read a model anew."""

log = logging.getLogger("sfumato.serve")
router = APIRouter(tags=["operations"])


@router.get("/v1/models", responses=answers(ModelList), tags=["OpenAI"])
async def models(http: Request) -> Response:
    """The models that are served."""
    here = service(http)
    here.known(http)
    found = {name: facts(here, name) for name in here.workers.fronts}
    names = here.options.models or tuple(found)
    if set(names) - set(found):
        for others in (await here.peers.ask("facts")).values():
            found = others | found
    return JSONResponse({"object": "list", "data": [found[name] for name in names if name in found]})


@router.get("/v1/models/{name}", responses=answers(ModelFacts), tags=["OpenAI"])
async def model(name: str, http: Request) -> Response:
    """One model."""
    here = service(http)
    here.known(http)
    return JSONResponse(facts(here, here.model(name).name))


@router.post("/tokenize", responses=answers(Tokens))
async def tokenize(body: TokenizeRequest, http: Request) -> Response:
    """The tokens of a text."""
    here = service(http)
    await here.owner(http)
    tokenizer = here.model(body.model).front.tokenizer
    tokens = await here.prepare("text", tokenizer.encode, body.text)
    pieces = [tokenizer.token_bytes(token).decode(errors="replace") for token in tokens]
    return JSONResponse({"tokens": tokens, "pieces": pieces, "count": len(tokens)})


@router.post("/v1/cancel", responses=answers(Cancelled))
async def cancel(body: CancelRequest, http: Request) -> Response:
    """End a response that is being written; what is there is sent, with finish_reason "cancelled"."""
    here = service(http)
    owner = here.known(http)
    if not here.cancel(body.id, owner) and not any((await here.peers.ask("cancel", body.id, owner)).values()):
        raise ApiError(404, "id: no response of that id is being written", param="id", code="not_found")
    return JSONResponse({"id": body.id, "cancelled": True})


@router.get("/health", responses=answers(Health))
async def health() -> Response:
    """Whether the process lives."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", responses=answers(Health))
async def ready(http: Request) -> Response:
    """Whether requests are welcome: 503 while models load, and from the moment the server begins to stop."""
    here = service(http)
    if here.draining or not here.workers.ready:
        raise ApiError(503, "not ready", code="not_ready", retry_after=2)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(http: Request) -> Response:
    """For Prometheus."""
    here = service(http)
    text = metrics_text(here)
    if here.peers.name:
        text = merged({here.peers.name: text, **await here.peers.ask("metrics")})
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/stats", responses=answers())
async def stats(http: Request) -> Response:
    """The numbers of the page's dashboard."""
    here = service(http)
    here.known(http)
    told = summary([counts(here), *(await here.peers.ask("counts")).values()])
    return JSONResponse(told | {"controller": here.adapting.told() if here.adapting else None})


@router.post("/admin/reload", responses=answers(Reloaded) | {403: answers()[401]})
async def reload(body: ReloadRequest, http: Request) -> Response:
    """Read a model anew from its folder; what runs is finished with the old one."""
    here = service(http)
    await _check_operator(here, http, "reloading needs a key: start the server with --api-key-file, or send it SIGHUP")
    name = here.model(body.model).name
    try:
        changed = await here.reload(name)
        for other in (await here.peers.ask("reload", name, wait=RELOAD_SECONDS)).values():
            if isinstance(other, Exception):
                raise other
            changed |= other
    except (ValueError, OSError) as error:  # the reason names folders of this machine
        log.error("model %s: %s", name, error)
        raise BadRequest("model: the new one cannot be used, the old one stays; see the log", "model") from None
    return JSONResponse({"model": name, "version": here.workers.versions[name], "changed": changed})


@router.get("/v1/controller", responses=answers(ControllerReply))
async def controller(http: Request) -> Response:
    """What is believed of the presets, by model and kind of request; `sfumato serve --adapt` lets it choose."""
    here = service(http)
    here.known(http)
    told = here.adapting.told() if here.adapting else {"utility": {}, "models": {}}
    return JSONResponse({"enabled": here.adapting is not None, **told})


@router.post("/admin/controller/reset", responses=answers(Reset) | {403: answers()[401]})
async def reset(body: ResetRequest, http: Request) -> Response:
    """Forget what was learned about the settings of a model."""
    here = service(http)
    await _check_operator(
        here, http, "forgetting needs a key: start the server with --api-key-file, or delete --adapt-file"
    )
    name = here.model(body.model).name
    if here.adapting is None:
        raise ApiError(404, "this server adapts no settings; start it with --adapt", code="not_found")
    here.adapting.reset(name)
    here.keep_learned()
    return JSONResponse({"model": name, "reset": True})


async def _check_operator(here: Service, http: Request, otherwise: str) -> None:
    """ApiError unless keys are asked for, and this is one."""
    if not here.options.keys.digests:
        raise ApiError(403, otherwise, code="needs_key")
    await here.owner(http)
