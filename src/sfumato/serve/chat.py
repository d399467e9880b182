"""`/v1/chat/completions`: conversations, JSON answers and calls of tools."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sfumato.sample.front import Front
from sfumato.serve.constraints import Wanted, callable_functions, called
from sfumato.serve.errors import BadRequest
from sfumato.serve.replies import ChatCompletion, answers
from sfumato.serve.running import finished
from sfumato.serve.schemas import ChatRequest, Message
from sfumato.serve.service import Model, service
from sfumato.serve.sse import Choices, events, openai_chunks
from sfumato.serve.streams import Place, RowView, chat_logprobs
from sfumato.serve.task import Asked, Task, new_task, seeds
from sfumato.text.prompt import Row

router = APIRouter(tags=["OpenAI"])
TOKENS = 128


@router.post("/v1/chat/completions", responses=answers(ChatCompletion, stream=True))
async def chat(body: ChatRequest, http: Request) -> Response:
    """Answer a conversation."""
    here = service(http)
    owner = await here.owner(http)
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs: needs logprobs = true", "top_logprobs")
    wanted = Wanted.of(body)
    param = wanted.param if wanted else "messages"
    task = await here.prepare(param, _task, here.model(body.model), body, owner, wanted)
    here.log_prompts(task.prompts)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        chunks = openai_chunks(
            here, http, task, "chat.completion.chunk", _choices(body), include_usage=usage, diffusing=body.diffusing
        )
        return await events(chunks, "chat")
    await finished(here, http, task)
    return JSONResponse(_completion(task, body))


def _task(model: Model, body: ChatRequest, owner: str, wanted: Wanted | None) -> Task:
    if model.front.chat_template is None:
        known = model.front.config.made.get("no_chat")
        why = f"knows no conversations: {known}" if known else "was not trained on conversations"
        message = f"model: {model.name} {why}; use /v1/completions, or a chat model"
        raise BadRequest(message, "model", "not_a_chat_model")
    messages = rendered(body)
    model.front.chat_template.check(messages)
    row, dropped = _row(model.front, messages, body)
    task = new_task(
        "chat",
        model,
        body,
        [Asked(row, seed) for seed in seeds(body, body.n or 1)],
        owner=owner,
        prompts=[messages],
        n=body.n or 1,
        stops=[body.stop] if isinstance(body.stop, str) else body.stop or [],
        watched=bool(body.stream or body.logprobs),
        drafts=bool(body.stream and body.diffusing),
        wanted=wanted,
    )
    task.extra["dropped_messages"] = dropped
    return task


def _row(front: Front, messages: list[dict[str, str]], body: ChatRequest) -> tuple[Row, int]:
    """The conversation with room for the answer, and how many of its oldest messages had to be left out.

    Raises:
        BadRequest: the answer, or the last message, is longer than the context.
    """
    assert front.chat_template is not None
    param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    room = body.max_completion_tokens or body.max_tokens
    given = len(front.chat_template.prompt(messages, front.tokenizer)) + len(front.tokenizer.begin)
    if room is None:
        room = min(TOKENS, max(front.context // 4, front.context - given))
    try:
        return front.conversation(messages, room)
    except ValueError:
        raise BadRequest(
            f"this model's context is {front.context} tokens, but {room} are to be written and the conversation has "
            f"{given}, of which its system and last messages cannot be left out",
            param if room >= front.context - 2 else "messages",
            "context_length_exceeded",
        ) from None


def rendered(body: ChatRequest) -> list[dict[str, str]]:
    """The conversation in the three roles that templates know: calls and results of tools are told as text."""
    messages = [_rendered(message, f"messages[{i}]") for i, message in enumerate(body.messages)]
    while len(messages) > 1 and messages[0]["role"] == messages[1]["role"] == "system":
        messages[:2] = [{"role": "system", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}]
    if functions := callable_functions(body):
        told = "\n".join(f"{function.name}: {function.description or ''}".rstrip(": ") for function in functions)
        told = f"Call one of these functions:\n{told}"
        if messages[0]["role"] == "system":
            messages[0] = {"role": "system", "content": f"{messages[0]['content']}\n\n{told}"}
        else:
            messages.insert(0, {"role": "system", "content": told})
    return messages


def _rendered(message: Message, where: str) -> dict[str, str]:
    content = message.content or ""
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    if message.role == "assistant" and message.tool_calls:
        calls = [{"name": c.function.name, "arguments": _parsed(c.function.arguments)} for c in message.tool_calls]
        content = "\n".join([content] * bool(content) + [json.dumps(call, ensure_ascii=False) for call in calls])
    elif message.content is None:
        raise BadRequest(f"{where}.content: missing", f"{where}.content", "missing_required_parameter")
    if message.role == "tool":
        return {"role": "user", "content": f"Result: {content}"}
    return {"role": "system" if message.role == "developer" else message.role, "content": content}


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _completion(task: Task, body: ChatRequest) -> dict[str, Any]:
    choices = []
    for index, view in enumerate(task.views):
        text, places = view.delta()
        call = _tool_call(view, body)
        message: dict[str, Any] = {"role": "assistant", "content": None if call else text, "refusal": None}
        choices.append(
            {
                "index": index,
                "message": message | ({"tool_calls": [call]} if call else {}),
                "logprobs": chat_logprobs(view, places, body.top_logprobs or 0) if body.logprobs else None,
                "finish_reason": "tool_calls" if call else view.finish,
            }
        )
    return task.answer("chat.completion", choices)


def _tool_call(view: RowView, body: ChatRequest) -> dict[str, Any] | None:
    """The call that a finished text is, if one was asked for and it is complete."""
    call = called(view.text) if callable_functions(body) else None
    if call is None:
        return None
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call[0], "arguments": call[1]},
    }


def _choices(body: ChatRequest) -> Choices:
    """The choices of a stream; a call of a tool comes at once, when it is complete."""
    begun: set[int] = set()
    calling = bool(callable_functions(body))

    def choices(index: int, view: RowView, piece: str, places: Sequence[Place]) -> list[dict[str, Any]]:
        told, finish = [], view.finish
        if index not in begun:
            begun.add(index)
            told.append(_delta(index, {"role": "assistant", "content": ""}))
        if calling and view.finish:
            if call := _tool_call(view, body):
                told.append(_delta(index, {"tool_calls": [{"index": 0, **call}]}))
                finish = "tool_calls"
            else:
                told.append(_delta(index, {"content": view.text}))
        elif not calling and (piece or places):
            logprobs = chat_logprobs(view, places, body.top_logprobs or 0) if body.logprobs else None
            told.append(_delta(index, {"content": piece}, logprobs))
        return told + ([_delta(index, {}, finish=finish)] if view.finish else [])

    return choices


def _delta(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
