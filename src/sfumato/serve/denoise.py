"""The native endpoints: templates and tokens to denoise, texts to edit, and which tokens a token depends on."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sfumato import rng
from sfumato.sample.front import Front
from sfumato.sample.influence import Influence
from sfumato.serve.constraints import Wanted
from sfumato.serve.edits import edited_row
from sfumato.serve.engine import Probe
from sfumato.serve.errors import BadRequest
from sfumato.serve.replies import Denoised, InfluenceReply, answers
from sfumato.serve.running import advance, answer_of, finished
from sfumato.serve.schemas import DenoiseRequest, EditRequest, InfluenceRequest
from sfumato.serve.service import Model, Service, new_id, service
from sfumato.serve.sse import events
from sfumato.serve.task import Asked, Task, new_task, seeds
from sfumato.text.prompt import Row, text_of

router = APIRouter(tags=["diffusion"])
TOKENS = 64


@router.post("/v1/denoise", responses=answers(Denoised, stream=True))
async def denoise(body: DenoiseRequest, http: Request) -> Response:
    """Fill the holes of a template, or write places of a text anew."""
    return await _answer(body, http, _denoise_task, "denoise", drafts=True)


@router.post("/v1/edit/completions", responses=answers(Denoised, stream=True))
async def edit(body: EditRequest, http: Request) -> Response:
    """Write spans of a text anew, or put other text there and let what is around it follow. Counts code points."""
    return await _answer(body, http, _edit_task, "edit", drafts=body.diffusing)


@router.post("/v1/influence", responses=answers(InfluenceReply))
async def influence(body: InfluenceRequest, http: Request) -> Response:
    """By how many nats each token raises the log-probability of the one at `position`, all others given."""
    here = service(http)
    owner, model = await here.owner(http), here.model(body.model)
    _check_tokens(model.front, body.tokens, "tokens")
    probe = Probe(new_id("inf"), model.name, model.version, tuple(body.tokens), body.position, owner)
    found: Influence = await answer_of(here, http, probe)
    piece = _pieces(model.front)
    return JSONResponse(
        {
            "position": found.place,
            "token": body.tokens[found.place],
            "text": piece(body.tokens[found.place]),
            "probability": found.probability,
            "influence": [
                {"position": place, "text": piece(body.tokens[place]), "delta_log_probability": delta}
                for place, delta in found.delta
            ],
        }
    )


async def _answer(
    body: DenoiseRequest | EditRequest, http: Request, make: Callable[..., Task], object_: str, *, drafts: bool
) -> Response:
    here = service(http)
    owner = await here.owner(http)
    wanted = Wanted.of(body)
    param = wanted.param if wanted else "text" if isinstance(body, EditRequest) else "template"
    task = await here.prepare(param, make, here.model(body.model), body, owner, bool(drafts and body.stream))
    here.log_prompts(task.prompts)
    if body.stream:
        return await events(_chunks(here, http, task, object_), object_)
    await finished(here, http, task)
    return JSONResponse(_response(task, object_))


async def _chunks(here: Service, http: Request, task: Task, object_: str) -> AsyncGenerator[dict[str, Any], None]:
    """The present view after every step, then the whole response."""
    base = {"id": task.id, "object": f"{object_}.chunk", "created": task.created, "model": task.model.name}
    base |= {"system_fingerprint": task.model.version, "choices": []}
    (view,) = task.views
    begin: dict[str, Any] | None = {"index": 0, **view.shown(whole=True)}
    async with aclosing(advance(here, http, task)) as steps:
        async for _ in steps:
            if begin:
                yield base | {"diffusion": begin}
                begin = None
            yield base | {"diffusion": {"index": 0, **view.shown(whole=True)}}
    last = _response(task, object_)
    last["diffusion"]["done"] = True
    yield base | last


def _response(task: Task, object_: str) -> dict[str, Any]:
    (view,), front = task.views, task.model.front
    tokens = [place.token for place in view.places]
    return {
        "id": task.id,
        "object": object_,
        "created": task.created,
        "model": task.model.name,
        "system_fingerprint": task.model.version,
        "text": text_of(front.tokenizer, tokens),
        "completion": text_of(front.tokenizer, tokens, view.first),
        "tokens": tokens,
        "pieces": [*map(_pieces(front), tokens)],
        "editable": [place.state != "given" for place in view.places],
        "seed": task.seed,
        "finish_reason": view.finish,
        "usage": task.usage(),
        "diffusion": {"index": 0, **view.shown(whole=True), **task.diffusion()},
    }


def _pieces(front: Front) -> Callable[[int], str]:
    return lambda token: front.tokenizer.token_bytes(token).decode(errors="replace")


def _denoise_task(model: Model, body: DenoiseRequest, owner: str, drafts: bool) -> Task:
    (seed,) = seeds(body, 1)
    row = _pinned(model.front, _row(model.front, body, seed), body.pinned or {})
    prompt = body.template if body.template is not None else text_of(model.front.tokenizer, row.tokens)
    return _one_text(model, body, row, seed, owner, prompt, drafts, "denoise")


def _edit_task(model: Model, body: EditRequest, owner: str, drafts: bool) -> Task:
    (seed,) = seeds(body, 1)
    row = edited_row(model.front, body.text, body.edits, body.context)
    return _one_text(model, body, row, seed, owner, body.text, drafts, "edit")


def _one_text(
    model: Model,
    body: DenoiseRequest | EditRequest,
    row: Row,
    seed: int,
    owner: str,
    prompt: str,
    drafts: bool,
    kind: str,
) -> Task:
    return new_task(
        kind,
        model,
        body,
        [Asked(row, seed)],
        owner=owner,
        prompts=[prompt],
        watched=True,
        drafts=drafts,
        in_sight=True,
        wanted=Wanted.of(body),
    )


def _row(front: Front, body: DenoiseRequest, seed: int) -> Row:
    """The row that a request describes in one of three ways.

    Raises:
        ValueError: in none or in several, or one that makes no sense.
    """
    begin = front.tokenizer.begin
    first = len(begin)
    given = [name for name in ("template", "tokens", "warm_start") if getattr(body, name) is not None]
    if len(given) != 1:
        raise BadRequest("give one of template, tokens and warm_start", given[1] if given else "template")
    if body.noise is not None and body.tokens is None:
        raise BadRequest("noise: names places among tokens; give tokens", "noise")
    if body.template is not None:
        return front.row(body.template, body.max_tokens or TOKENS, template=True, windows=False)
    if body.warm_start is not None:
        tokens = body.warm_start.tokens
        anew = _share(first, len(tokens), seed, body.warm_start.strength)
    else:
        tokens, anew = body.tokens or [], set(body.noise or ())
        if outside := [place for place in anew if not first <= place < len(tokens)]:
            raise BadRequest(f"noise: expected places from {first} to {len(tokens) - 1}, got {outside[0]}", "noise")
    _check_tokens(front, tokens, given[0])
    if begin and tokens[0] != begin[0]:
        raise BadRequest(f"{given[0]}: must begin with the start token {begin[0]}", given[0])
    mask = front.tokenizer.mask_id
    open_ = [place in anew or token == mask for place, token in enumerate(tokens)]
    return Row([mask if o else token for token, o in zip(tokens, open_, strict=True)], open_)


def _share(first: int, length: int, seed: int, strength: float) -> set[int]:
    """Places from `first` on that a warm start writes anew: each with the same chance, by the seed; one at least."""
    if length <= first:
        return set()
    chance = rng.uniform(seed, torch.arange(length)).tolist()
    places = range(first, length)
    return {place for place in places if chance[place] < strength} or {min(places, key=chance.__getitem__)}


def _pinned(front: Front, row: Row, pinned: dict[str, int]) -> Row:
    """The row with tokens fixed at some places."""
    _check_tokens(front, [*pinned.values()], "pinned")
    tokens, editable, first = list(row.tokens), list(row.editable), len(front.tokenizer.begin)
    for place, token in pinned.items():
        if not first <= int(place) < len(tokens):
            raise BadRequest(f"pinned: expected places from {first} to {len(tokens) - 1}, got {place}", "pinned")
        tokens[int(place)], editable[int(place)] = token, False
    return Row(tokens, editable, row.gaps, row.limit)


def _check_tokens(front: Front, tokens: Sequence[int], param: str) -> None:
    size = front.tokenizer.vocab_size
    if wrong := [token for token in tokens if token >= size]:
        raise BadRequest(f"{param}: expected token ids from 0 to {size - 1}, got {wrong[0]}", param)
    if len(tokens) > front.context:
        message = f"{param}: this model's context is {front.context} tokens, got {len(tokens)}"
        raise BadRequest(message, param, "context_length_exceeded")
