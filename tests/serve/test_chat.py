"""Conversations. The model here knows none, but what surrounds its answers is the same."""

import pytest

from sfumato.serve.chat import rendered
from sfumato.serve.schemas import ChatRequest

PATH = "/v1/chat/completions"
ASK = {"model": "talk", "messages": [{"role": "user", "content": "Tell me about Tom."}], "seed": 3, "max_tokens": 12}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def refused(response, param: str | None, code: str | None = None) -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param and (code is None or error["code"] == code), error
    return error["message"]


def test_an_answer_has_what_openai_promises(here):
    answer = here.post(PATH, **ASK).json()
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length") and choice["logprobs"] is None
    assert answer["usage"]["completion_tokens"] <= 12 and answer["diffusion"]["dropped_messages"] == 0


def test_a_stream_begins_with_the_role_and_adds_up(here):
    whole = here.post(PATH, **ASK, n=2).json()["choices"]
    chunks = here.chunks(PATH, **ASK, n=2)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    for index in (0, 1):
        deltas = [c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(deltas) == whole[index]["message"]["content"]
    assert chunks[-1]["choices"][0]["delta"] == {} and chunks[-1]["choices"][0]["finish_reason"]


def test_logprobs_are_three_at_most(here):
    content = here.post(PATH, **ASK, logprobs=True, top_logprobs=3).json()["choices"][0]["logprobs"]["content"]
    assert all(len(entry["top_logprobs"]) == 3 and entry["logprob"] <= 0 for entry in content)
    assert here.post(PATH, **ASK, logprobs=True).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    refused(here.post(PATH, **ASK, top_logprobs=2), "top_logprobs")
    refused(here.post(PATH, **ASK, logprobs=True, top_logprobs=4), "top_logprobs")


def test_a_model_without_a_template_says_so(here):
    assert "conversations" in refused(here.post(PATH, **ASK | {"model": "tiny"}), "model", "not_a_chat_model")


def test_old_turns_make_room_and_that_is_told(here):
    history = [{"role": role, "content": "word " * 60} for role in ("user", "assistant") * 3]
    answer = here.post(PATH, **ASK | {"messages": history + ASK["messages"]}).json()
    assert answer["diffusion"]["dropped_messages"] == 4


@pytest.mark.parametrize(
    ("body", "param"),
    [({"max_tokens": 300}, "max_tokens"), ({"max_completion_tokens": 255}, "max_completion_tokens")],
)
def test_more_than_the_context_holds_is_refused(here, body: dict, param: str):
    assert "256" in refused(here.post(PATH, **ASK | body), param, "context_length_exceeded")


def test_a_message_that_is_too_long_is_refused(here):
    body = {"messages": [{"role": "user", "content": "word " * 300}]}
    refused(here.post(PATH, **ASK | body), "messages", "context_length_exceeded")


def test_without_a_length_the_answer_gets_what_is_left(here):
    body = {key: value for key, value in ASK.items() if key != "max_tokens"}
    answer = here.post(PATH, **body | {"sampler": "threshold", "temperature": 0}).json()
    assert answer["usage"]["completion_tokens"] <= 128


def talk(**fields) -> list[dict[str, str]]:
    return rendered(ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **fields}))


def test_roles_that_templates_do_not_know_are_told_in_those_they_do():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    assert talk(messages=messages) == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": '{"name": "f", "arguments": {"a": 1}}'},
        {"role": "user", "content": "Result: 42"},
    ]


def test_a_call_that_is_wanted_is_explained_to_the_model():
    told = talk(tools=[WEATHER], tool_choice="required")
    assert told[0] == {"role": "system", "content": "Call one of these functions:\nget_weather: the weather of a city"}
    for choice in ("none", "auto", None):
        assert talk(tools=[WEATHER], tool_choice=choice) == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "messages[1].role"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"functions": []}, "functions"),
        ({"modalities": ["audio"]}, "modalities[0]"),
    ],
    ids=lambda part: str(part)[:50],
)
def test_what_makes_no_sense_is_refused(here, body: dict, param: str):
    refused(here.post(PATH, **ASK | body), param)


def test_the_end_of_an_earlier_turn_does_not_end_an_answer(here):
    talk = [("user", "Hello!"), ("assistant", "Hello! What can I do for you?"), ("user", "Tell me a story, please.")]
    messages = [{"role": role, "content": content} for role, content in talk]
    (choice,) = here.post(PATH, **ASK | {"messages": messages, "max_tokens": 4}).json()["choices"]
    assert choice["finish_reason"] == "length"
