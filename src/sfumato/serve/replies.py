"""What the server answers, for its published description."""

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """OpenAI's envelope of an error."""

    error: Problem


class DiffusionUsage(BaseModel):
    """What writing cost the network."""

    nfe: int
    """Forward passes, summed over the texts."""
    tpf: float
    """Tokens written per forward pass."""
    positions_evaluated: int
    steps: int
    """Of the text that took most."""


class Usage(BaseModel):
    """OpenAI's usage, and ours."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    diffusion: DiffusionUsage


class How(BaseModel):
    """What reproduces a response."""

    seed: int
    sampler: str
    settings: dict[str, Any]


class Answer(BaseModel):
    """What all responses have."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    diffusion: How


class TextChoice(BaseModel):
    """One text."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class Completion(Answer):
    """A response of `/v1/completions`."""

    choices: list[TextChoice]


class AnswerMessage(BaseModel):
    """What the assistant says."""

    role: str
    content: str | None
    refusal: None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class ChatCompletion(Answer):
    """A response of `/v1/chat/completions`."""

    choices: list[ChatChoice]


class DiffusionView(How):
    """The last view of a row, and what reproduces it."""

    text: str
    masked: list[list[int]]
    prompt_length: int
    confidence: float | None
    tokens: list[dict[str, Any]]


class Denoised(BaseModel):
    """A response of `/v1/denoise`, and of `/v1/edit/completions`."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    text: str
    completion: str
    tokens: list[int]
    pieces: list[str]
    editable: list[bool]
    seed: int
    finish_reason: str
    usage: Usage
    diffusion: DiffusionView


class Influenced(BaseModel):
    """How one visible token changes the probability of another."""

    position: int
    text: str
    delta_log_probability: float


class InfluenceReply(BaseModel):
    """A response of `/v1/influence`."""

    position: int
    token: int
    text: str
    probability: float
    influence: list[Influenced]


class EmbeddingUsage(BaseModel):
    """OpenAI's usage, where nothing is written."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """What one text means: numbers, or as base64 the bytes of little-endian float32."""

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """A response of `/v1/embeddings`."""

    object: str
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Tokens(BaseModel):
    """A response of `/tokenize`."""

    tokens: list[int]
    pieces: list[str]
    count: int


class ModelFacts(BaseModel):
    """A model of `/v1/models`."""

    id: str
    object: str
    created: int
    owned_by: str
    diffusion: dict[str, Any]


class ModelList(BaseModel):
    """A response of `/v1/models`."""

    object: str
    data: list[ModelFacts]


class Stored(BaseModel):
    """Feedback that is on disk."""

    id: str
    stored: bool


class Cancelled(BaseModel):
    """A response that will not be finished."""

    id: str
    cancelled: bool


class Reloaded(BaseModel):
    """A model that was read anew."""

    model: str
    version: str
    changed: bool


class ControllerReply(BaseModel):
    """A response of `/v1/controller`."""

    enabled: bool
    utility: dict[str, float]
    """What it wants: the weight of speed, and the rest of `sample.controller.Utility`."""
    models: dict[str, Any]
    """Of each: its presets, and what is believed of them by kind of request."""


class Reset(BaseModel):
    """A model of which nothing is known any more."""

    model: str
    reset: bool


class Health(BaseModel):
    """Whether the server lives, or is ready."""

    status: str


_SAID = {
    400: "A field that cannot be used; `param` names it.",
    401: "No key, or a wrong one.",
    404: "No such model or response.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "Too many requests; see Retry-After.",
    500: "Our fault; the server's log knows more under this number.",
    503: "Too many rows wait, or the server is shutting down; see Retry-After.",
}


def answers(model: type[BaseModel] | None = None, *, status: int = 200, stream: bool = False) -> dict[int | str, Any]:
    """All that an endpoint may answer, for its published description."""
    fine: dict[str, Any] = {"description": "Fine."}
    if model:
        fine["model"] = model
    if stream:
        fine["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    problems: dict[int | str, Any] = {code: {"model": Failure, "description": said} for code, said in _SAID.items()}
    return {status: fine, **problems}
