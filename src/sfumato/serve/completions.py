"""`/v1/completions` and `/v1/fim/completions`: text goes on, or fills the hole between a prompt and a suffix."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sfumato.sample.front import Front
from sfumato.serve.constraints import Wanted
from sfumato.serve.errors import BadRequest
from sfumato.serve.replies import Completion, answers
from sfumato.serve.rows import row_around
from sfumato.serve.running import finished
from sfumato.serve.schemas import MOST_TEXTS, CompletionRequest, FimRequest, Generation
from sfumato.serve.service import Model, service
from sfumato.serve.sse import events, openai_chunks
from sfumato.serve.streams import Place, RowView, completion_logprobs
from sfumato.serve.task import Asked, Task, new_task, seeds
from sfumato.text.prompt import Row

router = APIRouter(tags=["OpenAI"])
_Body = CompletionRequest | FimRequest
TOKENS = 64
HOLE_TOKENS = 16


@router.post("/v1/completions", responses=answers(Completion, stream=True))
async def complete(body: CompletionRequest, http: Request) -> Response:
    """Continue a prompt, or several; with `suffix`, fill the hole between the two."""
    return await _answer(body, http, [body.prompt] if isinstance(body.prompt, str) else body.prompt, body.suffix)


@router.post("/v1/fim/completions", responses=answers(Completion, stream=True))
async def fill_in_the_middle(body: FimRequest, http: Request) -> Response:
    """Write `max_tokens` tokens between a prompt and a suffix."""
    return await _answer(body, http, [body.prompt], body.suffix)


async def _answer(body: _Body, http: Request, prompts: Sequence[str], suffix: str | None) -> Response:
    here = service(http)
    owner = await here.owner(http)
    if len(prompts) * (body.n or 1) > MOST_TEXTS:
        raise BadRequest(f"n: at most {MOST_TEXTS} texts a request, got {len(prompts)} prompts x {body.n}", "n")
    wanted = Wanted.of(body)
    param = wanted.param if wanted else "prompt"
    task = await here.prepare(param, _task, here.model(body.model), body, owner, prompts, suffix, wanted)
    here.log_prompts(task.prompts)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        offsets = [0] * len(task.views)

        def choices(index: int, view: RowView, piece: str, places: Sequence[Place]) -> list[dict[str, Any]]:
            told = [_choice(index, view, piece, places, body.logprobs, offsets[index])] if piece or places else []
            offsets[index] += len(piece)
            return told + ([_choice(index, view, "", (), None) | {"finish_reason": view.finish}] if view.finish else [])

        chunks = openai_chunks(
            here, http, task, "text_completion", choices, include_usage=usage, diffusing=body.diffusing
        )
        return await events(chunks, "completions")
    await finished(here, http, task)
    return JSONResponse(_completion(task, body))


def _task(
    model: Model, body: _Body, owner: str, prompts: Sequence[str], suffix: str | None, wanted: Wanted | None
) -> Task:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    asked = []
    for prompt in prompts:
        row, tail = _row(model.front, body, prompt, suffix)
        asked += [Asked(row, seed, tail) for seed in seeds(body, body.n or 1)]
    return new_task(
        "completion" if suffix is None else "fim",
        model,
        body,
        asked,
        owner=owner,
        prompts=prompts if suffix is None else [{"prompt": one, "suffix": suffix} for one in prompts],
        n=body.n or 1,
        stops=stops,
        watched=bool(body.stream or body.logprobs is not None),
        drafts=bool(body.stream and body.diffusing),
        in_sight=bool(suffix),
        wanted=wanted,
    )


def _row(front: Front, body: Generation, prompt: str, suffix: str | None) -> tuple[Row, int]:
    """The row, and how many given tokens stand at its end."""
    before = [*front.tokenizer.begin, *front.tokenizer.encode(prompt)]
    if not suffix:
        return row_around(front, before, body.max_tokens or max(1, min(TOKENS, front.context - len(before)))), 0
    behind = [*front.tokenizer.encode(suffix, continued=True), front.tokenizer.end_id]
    return row_around(front, before, body.max_tokens or HOLE_TOKENS, behind), len(behind)


def _completion(task: Task, body: _Body) -> dict[str, Any]:
    choices = []
    for index, view in enumerate(task.views):
        piece, places = view.delta()
        choices.append(_choice(index, view, piece, places, body.logprobs) | {"finish_reason": view.finish})
    return task.answer("text_completion", choices)


def _choice(
    index: int, view: RowView, piece: str, places: Sequence[Place], best: int | None, offset: int = 0
) -> dict[str, Any]:
    logprobs = None if best is None else completion_logprobs(view, places, best, offset)
    return {"index": index, "text": piece, "logprobs": logprobs, "finish_reason": None}
