"""What clients may send: the OpenAI fields that make sense for a diffusion model, and our own beside them.

Unknown fields are refused by name. Fields that OpenAI has and we do not are accepted at the value at which they change
nothing, since many clients send them always.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from sfumato.sample.remask import STRATEGIES
from sfumato.sample.settings import SAMPLERS
from sfumato.sample.watch import RUNNERS_UP

MOST_TEXTS = 32
"""Texts that one request may ask for."""
MOST_INPUTS = 2048
"""Texts that one request may have embedded."""
STOPS = 4

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Probability = Annotated[float, Field(ge=1e-6, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Zero = Annotated[float, Field(ge=0, le=0)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1, fail_fast=True)]
"""Long lists end at their first mistake: to tell of every one takes seconds."""
Label = Annotated[str, Field(max_length=512)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Metadata = Annotated[dict[Label, Label], Field(max_length=64)]


class Strict(BaseModel):
    """No unknown fields, no guessing of types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """OpenAI's options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Settings(Strict):
    """How to write. What is left out is the model's own default."""

    model: Annotated[str, Field(max_length=256)] | None = Field(None, description="default: the first one served")
    seed: Seed | None = Field(None, description="all randomness follows from it; drawn, and told, if left out")
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    steps: Count | None = Field(None, description="forward passes at most; 1000 or 16 a token, if that is more")
    block_length: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(None, description="0 = all in one block")
    sampler: Literal[SAMPLERS] | None = None  # pyrefly: ignore[not-a-type]
    threshold: Probability | None = None
    factor: Annotated[float, Field(ge=0)] | None = None
    entropy_bound: Annotated[float, Field(ge=0)] | None = None
    remask: Literal[STRATEGIES] | None = None  # pyrefly: ignore[not-a-type]
    eta: Annotated[float, Field(ge=0)] | None = None
    kappa: Probability | None = None
    corrections: Annotated[int, Field(ge=0, le=32)] | None = None
    sites: Annotated[int, Field(ge=1, le=1000)] | None = None
    edit_threshold: Probability | None = None
    edit_steps: Annotated[int, Field(ge=0, le=1000)] | None = None
    patience: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    clamp: bool | None = None
    reasoning_effort: Literal["none", "minimal", "instant", "low", "medium", "high"] | None = Field(
        None, description="a budget of steps: instant = tokens/8, low = tokens/4, medium = default, high = tokens"
    )
    regex: Annotated[str, Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="the text shall match it as a whole"
    )
    choice: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="the text shall be one of these"
    )
    grammar: Annotated[str, Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="the text shall follow this Lark grammar"
    )
    user: Label | None = None
    metadata: Metadata | None = None
    store: Literal[False] | None = None


class Generation(Settings):
    """What every OpenAI endpoint that writes has in common."""

    max_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=MOST_TEXTS)] | None = Field(None, description="texts, seeds seed, seed + 1, ...")
    stop: StopText | Annotated[list[StopText], Field(max_length=STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusing: bool = Field(False, description="while streaming, show the text as it appears, drafts included")
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
    suffix: str | None = Field(None, description="the text goes on like this: fills the hole between the two")
    logprobs: Annotated[int, Field(ge=0, le=RUNNERS_UP)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None


class FimRequest(Generation):
    """`POST /v1/fim/completions`: what stands between a prompt and a suffix."""

    prompt: str
    suffix: str = ""
    logprobs: Annotated[int, Field(ge=0, le=RUNNERS_UP)] | None = None


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    """What an assistant called."""

    name: Label
    arguments: str
    parsed_arguments: Any = Field(None, description="what clients add when they send an answer back; not read")


class ToolCall(Strict):
    """A call that an assistant made, in a history."""

    id: Label
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: Label | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Label | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    parsed: Any = Field(None, description="what clients add when they send an answer back; not read")


class JsonSchema(Strict):
    """A named JSON schema."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")] = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonFormat(Strict):
    """A JSON object of any shape."""

    type: Literal["json_object"]


class SchemaFormat(Strict):
    """JSON that satisfies a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class Function(Strict):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """The name of a function."""

    name: Label


class NamedTool(Strict):
    """The tool to use."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=RUNNERS_UP)] | None = None
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None


class WarmStart(Strict):
    """Begin with a text of which only a part becomes noise."""

    tokens: Tokens
    strength: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="share of the tokens to write anew")


class DenoiseRequest(Settings):
    """`POST /v1/denoise`: a template, or tokens with places to write anew."""

    template: str | None = Field(None, description="{8} is a hole of 8 tokens, {*} the open end, {{ and }} are braces")
    tokens: Tokens | None = None
    noise: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)] | None = Field(
        None, description="places among tokens to write anew"
    )
    pinned: dict[Annotated[str, Field(pattern="^[0-9]{1,7}$")], Token] | None = Field(
        None, description="place -> token id that shall stand there"
    )
    warm_start: WarmStart | None = None
    max_tokens: Count | None = Field(None, description="length of the open end")
    stream: bool | None = None


class Edit(Strict):
    """A span of characters to write anew, or to replace by a text."""

    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="tokens; default: as many as before"
    )
    text: str | None = Field(None, description="what to put there; `context` tokens around it are written anew")


class EditRequest(Settings):
    """`POST /v1/edit/completions`."""

    text: str
    edits: Annotated[list[Edit], Field(min_length=1, max_length=100)]
    context: Annotated[int, Field(ge=0, le=1000)] = 3
    stream: bool | None = None
    diffusing: bool = False


class InfluenceRequest(Strict):
    """`POST /v1/influence`: which tokens the model looks at for one of them."""

    model: Label | None = None
    tokens: Tokens
    position: Annotated[int, Field(ge=0)]


def _texts_only(value: Any) -> Any:
    """Refuse tokens by name: they would be another tokenizer's."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, (int, list)) and not isinstance(first, bool):
        raise PydanticCustomError("tokens", "token ids of another tokenizer mean nothing here; send texts")
    return value


NonEmpty = Annotated[str, Field(min_length=1)]


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: Annotated[str, Field(max_length=256)] | None = Field(None, description="default: the first one served")
    input: Annotated[
        NonEmpty | Annotated[list[NonEmpty], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)],
        BeforeValidator(_texts_only),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(None, description="keep the first so many")
    user: Label | None = None


class TokenizeRequest(Strict):
    """`POST /tokenize`."""

    model: Label | None = None
    text: str


class ReloadRequest(Strict):
    """`POST /admin/reload`."""

    model: Label


class ResetRequest(Strict):
    """`POST /admin/controller/reset`."""

    model: Label


class CancelRequest(Strict):
    """`POST /v1/cancel`."""

    id: Label
