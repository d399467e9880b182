"""Whatever a client sends, it gets OpenAI's envelope, and never a 5xx that is our fault."""

import logging

import pytest
from pydantic import ValidationError

from sfumato.serve.errors import TYPES, ApiError, from_value_error, unexpected
from sfumato.serve.schemas import ChatRequest, DenoiseRequest, InfluenceRequest, Strict

PATH = "/v1/completions"


def send(here, content: bytes, kind: str = "application/json"):
    return here.ask("POST", PATH, headers={"content-type": kind}, content=content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": NaN}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "\\ud800": 1}',
        b'{"prompt": "a", "user": "\\ud800"}',
        b'{"prompt": "a", "model": "\\ud800"}',
        b'{"prompt": "a", "stop": "\\ud800"}',
        b'{"prompt": "a", "metadata": {"\\ud800": "\\udfff"}}',
        b"[" * 100_000,
        b'{"prompt": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    ],
    ids=lambda content: str(content[:30]),
)
def test_broken_bodies_are_the_clients_mistake(here, content: bytes):
    response = send(here, content)
    assert response.status_code == 400, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_of_another_kind_is_refused(here):
    assert send(here, b'{"prompt": "a"}', "text/plain").status_code == 400


@pytest.mark.parametrize(("method", "path", "status"), [("GET", PATH, 405), ("POST", "/v1/moderations", 404)])
def test_what_is_not_there_is_told_in_the_envelope(here, method: str, path: str, status: int):
    response = here.ask(method, path)
    assert response.status_code == status and response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "wizard", "content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], "messages[1].role"),
        ([], "messages"),
    ],
)
def test_the_field_is_named_wherever_it_is(here, messages: list, param: str):
    error = here.post("/v1/chat/completions", messages=messages).json()["error"]
    assert error["param"] == param


def test_what_the_package_says_keeps_its_field():
    error = from_value_error(ValueError("block: got 5,\n expected 4"), {"block": "block_length"})
    assert (error.param, error.message, error.status) == ("block_length", "block: got 5, expected 4", 400)
    assert from_value_error(ValueError("the text has no end"), {"block": ""}).param is None


def test_a_fault_of_ours_has_a_number_and_tells_nothing(caplog: pytest.LogCaptureFixture):
    secret = "my dark secret"
    try:
        raise RuntimeError(secret)
    except RuntimeError as error:
        answer = unexpected(error, "/v1/here")
    number = answer.message.split()[2].rstrip(";")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and number in record.getMessage() and secret not in record.getMessage()
    assert "RuntimeError" in record.getMessage() and answer.status == 500 and secret not in str(answer.body())


def test_every_status_has_a_type():
    for status, kind in TYPES.items():
        assert ApiError(status, "x").body()["error"]["type"] == kind
    assert ApiError(418, "x").body()["error"]["type"] == "invalid_request_error"
    assert ApiError(599, "x", retry_after=3).response().headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (DenoiseRequest, {"tokens": ["a"] * 1000, "noise": ["a"] * 1000}),
        (InfluenceRequest, {"tokens": [-1] * 1000, "position": 1}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{}] * 1000}]}),
    ],
)
def test_a_long_list_of_mistakes_is_not_read_to_its_end(kind: type[Strict], body: dict):
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() < 5
