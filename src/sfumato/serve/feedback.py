"""`/v1/feedback`: what somebody thinks of a response, on disk before it is acknowledged."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from sfumato.serve.errors import ApiError, from_value_error, log
from sfumato.serve.replies import Stored, answers
from sfumato.serve.schemas import Label, Strict
from sfumato.serve.service import Service, service
from sfumato.store.records import Feedback
from sfumato.store.records import Response as Written

router = APIRouter(tags=["feedback"])
_FIELDS = ("value", "correction", "over", "comment", "kind", "response_id")
Index = Annotated[int, Field(ge=0)]


class FeedbackRequest(Strict):
    """`POST /v1/feedback`."""

    response_id: Label
    index: Index = Field(0, description="which of the texts, where there were several")
    kind: Literal["thumb", "rating", "correction", "preference"]
    value: int | None = Field(None, description="thumb: 1 or -1; rating: 1 (bad) to 5 (good)")
    correction: Annotated[str, Field(max_length=100_000)] | None = Field(None, description="what the text should be")
    over: Label | None = Field(None, description="preference: the response that is liked less")
    over_index: Index = 0
    comment: Annotated[str, Field(max_length=10_000)] = ""


@router.post("/v1/feedback", status_code=201, responses=answers(Stored, status=201))
async def give_feedback(body: FeedbackRequest, http: Request) -> Response:
    """Keep what somebody thinks of a text that this server wrote and still remembers."""
    here = service(http)
    owner = await here.owner(http)
    if here.feedback is None:
        raise ApiError(404, "this server keeps no feedback; start it with --feedback-url", code="no_feedback")
    about = await _remembered(here, owner, body.response_id, body.index, "response_id")
    texts, over = [about], None
    if body.over is not None:
        other = await _remembered(here, owner, body.over, body.over_index, "over")
        texts, over = [about, other], other.id
    try:
        feedback = Feedback(
            response_id=about.id,
            kind=body.kind,
            value=body.value,
            correction=body.correction,
            over=over,
            comment=body.comment,
            owner=owner,
        )
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(here.disk, here.feedback.add, feedback, texts)
    except ValueError as error:
        raise from_value_error(error, _FIELDS) from None
    except OSError as error:
        log.error("feedback was not stored: %s", error)
        message = "the feedback could not be stored; try again"
        raise ApiError(503, message, code="not_stored", retry_after=5) from None
    here.metrics.stored(_counted(feedback))
    if here.adapting and await loop.run_in_executor(here.disk, here.adapting.judged, feedback, texts):
        here.keep_learned()
    return JSONResponse({"id": feedback.id, "stored": True}, 201)


async def _remembered(here: Service, owner: str, response_id: str, index: int, param: str) -> Written:
    texts = await here.peers.recall(response_id, owner)
    if not texts or index >= len(texts):
        message = f"{param}: this server does not remember such a response of yours"
        raise ApiError(404, message, param=param, code="not_found")
    return texts[index]


def _counted(feedback: Feedback) -> str:
    """How the metrics call it."""
    if feedback.kind != "thumb":
        return feedback.kind
    return "thumb_up" if feedback.value == 1 else "thumb_down"
