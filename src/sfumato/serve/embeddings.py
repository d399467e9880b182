"""`/v1/embeddings`: what texts mean, as vectors."""

import base64
import json
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from sfumato.serve.engine import Reading
from sfumato.serve.replies import EmbeddingList, answers
from sfumato.serve.running import answer_of
from sfumato.serve.schemas import EmbeddingRequest
from sfumato.serve.service import new_id, service
from sfumato.text.interface import AnyTokenizer
from sfumato.text.tokenizer import check_text

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/embeddings", responses=answers(EmbeddingList))
async def embeddings(body: EmbeddingRequest, http: Request) -> Response:
    """A vector of length 1 for each text; their inner products say how alike the texts are.

    Texts longer than the context are read in pieces, and count as the mean of these.
    """
    here = service(http)
    owner, model = await here.owner(http), here.model(body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input
    tokens = await here.prepare("input", _tokens, model.front.tokenizer, texts)
    here.log_prompts(texts)
    reading = Reading(new_id("embd"), model.name, model.version, tokens, body.dimensions, owner)
    found_NE: np.ndarray = await answer_of(here, http, reading)
    size = sum(map(len, tokens))
    here.metrics.embedded(model.name, size)
    data = await here.prepare("input", _data, found_NE, body.encoding_format)
    rest = json.dumps({"model": model.name, "usage": {"prompt_tokens": size, "total_tokens": size}})
    return Response(f'{{"object": "list", "data": [{data}], {rest[1:]}', media_type="application/json")


def _tokens(tokenizer: AnyTokenizer, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    for i, text in enumerate(texts):
        check_text(text, f"input[{i}]")
    return tuple(map(tuple, tokenizer.encode_batch(texts)))


def _data(found_NE: np.ndarray, form: str | None) -> str:
    """The entries in JSON, row by row: millions of numbers in one call would hold up everybody else's stream."""

    def entry(index: int, row_E: np.ndarray) -> str:
        vector = base64.b64encode(row_E.astype("<f4").tobytes()).decode() if form == "base64" else row_E.tolist()
        return json.dumps({"object": "embedding", "index": index, "embedding": vector})

    return ", ".join(entry(index, row_E) for index, row_E in enumerate(found_NE))
