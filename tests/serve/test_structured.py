"""Texts that satisfy what the client asks for: patterns, choices, JSON, calls of tools."""

import json
import re
import threading

import jsonschema
import pytest

from sfumato.serve import service
from sfumato.serve.errors import BadRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK = {"model": "talk", "messages": [{"role": "user", "content": "Who?"}], "seed": 3, "max_tokens": 60}
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Tom", "Lily"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "find", "parameters": PERSON}},
    {"type": "function", "function": {"name": "ask", "parameters": {"type": "object", "properties": {}}}},
]


def schema(wanted: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted, "strict": True}}


def content(response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("model", ["tiny", "tiny-ar"])
def test_a_pattern_is_matched(here, model: str):
    body = {"model": model, "prompt": "Call me at ", "max_tokens": 12, "regex": r"[0-9]{3}-[0-9]{4}", "n": 3, "seed": 1}
    for choice in here.post(COMPLETIONS, **body).json()["choices"]:
        assert re.fullmatch(r"[0-9]{3}-[0-9]{4}", choice["text"]) and choice["finish_reason"] == "stop"


def test_one_of_several(here):
    body = {"prompt": "The cat was", "max_tokens": 8, "choice": [" happy", " sad and alone"], "n": 4}
    assert {c["text"] for c in here.post(COMPLETIONS, **body).json()["choices"]} <= {" happy", " sad and alone"}


def test_a_grammar(here):
    body = {"prompt": "1+1", "max_tokens": 12, "grammar": 'start: "=" /[0-9]/ ("+" /[0-9]/)*', "seed": 1}
    text = here.post(COMPLETIONS, **body).json()["choices"][0]["text"]
    assert re.fullmatch(r"=[0-9](\+[0-9])*\+?", text)


def test_a_text_that_its_grammar_never_ends_has_not_stopped(here):
    answer = here.post(COMPLETIONS, prompt="Once", max_tokens=12, grammar='start: "a" start', seed=1).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_schema_is_satisfied(here):
    for seed in range(3):
        answer = here.post(CHAT, **ASK | {"seed": seed}, response_format=schema(PERSON))
        jsonschema.validate(json.loads(content(answer)), PERSON)


def test_any_object(here):
    assert isinstance(json.loads(content(here.post(CHAT, **ASK, response_format={"type": "json_object"}))), dict)
    assert content(here.post(CHAT, **ASK, response_format={"type": "text"}))


def test_a_call_that_is_required_is_made(here):
    choice = here.post(CHAT, **ASK, tools=TOOLS, tool_choice="required").json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert call["type"] == "function" and call["function"]["name"] in ("find", "ask") and call["id"]
    if call["function"]["name"] == "find":
        jsonschema.validate(json.loads(call["function"]["arguments"]), PERSON)


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_function_is_called(here, stream: bool):
    body = ASK | {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "find"}}}
    if stream:
        chunks = here.chunks(CHAT, **body)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        (calls,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
        assert calls[0]["index"] == 0 and chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert all(not delta.get("content") for delta in deltas)
    else:
        calls = here.post(CHAT, **body).json()["choices"][0]["message"]["tool_calls"]
    assert calls[0]["function"]["name"] == "find"
    jsonschema.validate(json.loads(calls[0]["function"]["arguments"]), PERSON)


def test_arguments_may_refer_to_parts_of_their_schema(here):
    parameters = {
        "type": "object",
        "properties": {"who": {"$ref": "#/$defs/who"}, "whom": {"$ref": "#/$defs/who"}},
        "required": ["who", "whom"],
        "additionalProperties": False,
        "$defs": {"who": {"enum": ["Tom", "Lily"]}},
    }
    tools = [{"type": "function", "function": {"name": "greet", "parameters": parameters}}]
    (call,) = here.post(CHAT, **ASK, tools=tools, tool_choice="required").json()["choices"][0]["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), parameters)


def test_what_only_looks_like_a_reference_is_none(here):
    parameters = {
        "type": "object",
        "properties": {"const": {"$ref": "#/$defs/one"}, "$ref": {"const": {"$ref": "#/x"}}},
        "required": ["const", "$ref"],
        "$defs": {"one": {"const": 1}},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    (call,) = here.post(CHAT, **ASK, tools=tools, tool_choice="required").json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"const": 1, "$ref": {"$ref": "#/x"}}


def test_who_waits_for_others_to_be_prepared_may_come_again(here, monkeypatch: pytest.MonkeyPatch):
    done = threading.Event()
    for _ in range(2):
        here.service.pool.submit(done.wait)
    monkeypatch.setattr(service, "PREPARE_SECONDS", 0.05)
    try:
        response = here.post(COMPLETIONS, prompt="a", regex="b")
    finally:
        done.set()
    assert response.status_code == 503 and response.json()["error"]["code"] == "busy"
    assert int(response.headers["retry-after"]) > 0


def test_what_takes_too_long_to_prepare_is_named(here, monkeypatch: pytest.MonkeyPatch):
    done = threading.Event()
    monkeypatch.setattr(service, "PREPARE_SECONDS", 0.05)
    with pytest.raises(BadRequest) as error:
        here.run(here.service.prepare("regex", done.wait, 60))
    done.set()
    assert error.value.param == "regex" and str(error.value).startswith("regex: took more than")


def test_a_text_that_is_complete_in_its_last_place_has_stopped(here):
    tokens = len(here.post("/tokenize", text="yes").json()["tokens"])
    answer = here.post(COMPLETIONS, prompt="Tom said ", max_tokens=tokens, choice=["yes"]).json()
    assert answer["choices"][0]["text"] == "yes" and answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_tools_that_may_be_left_are_left(here, choice: str | None):
    assert content(here.post(CHAT, **ASK, tools=TOOLS, tool_choice=choice)) is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"regex": "("}, "regex"),
        ({"regex": "a{100}"}, "max_tokens"),
        ({"regex": r"(a)\1"}, "regex"),
        ({"choice": [""]}, "choice[0]"),
        ({"grammar": "start: nonsense"}, "grammar"),
        ({"response_format": schema({"type": "what"})}, "response_format"),
        ({"response_format": schema({"$ref": "file:///etc/passwd"})}, "response_format"),
        ({"response_format": schema({"$schema": []})}, "response_format"),
        ({"response_format": schema({"$ref": "#/default", "default": 5})}, "response_format"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "response_format"),
        ({"tools": TOOLS, "tool_choice": "required", "choice": ["a"]}, "tools"),
    ],
    ids=lambda part: str(part)[:60],
)
def test_what_cannot_be_satisfied_is_refused(here, fields: dict, param: str):
    response = here.post(CHAT, **ASK | fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param, response.text
