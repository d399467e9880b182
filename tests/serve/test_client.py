"""The whole thing: the real command, and the client that everybody uses."""

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import httpx
import openai
import pydantic
import pytest
from servers import KEY, Server

from sfumato.cli import main
from sfumato.model.bundle import find_bundle
from sfumato.store.feedback import FeedbackStore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, talk: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "keys").write_text(f"me:{KEY}\n")
    words = ["--model", "tiny", "--model", f"talk={talk}", "--queue", "2", "--rows", "2", "--max-body", "20000"]
    server = Server(*words, "--api-key-file", f"{folder}/keys", "--feedback-url", f"{folder}/feedback.db")
    yield server
    code, said = server.end()
    assert code == 0 and said == ""


def test_embeddings(server: Server):
    create = server.client.embeddings.create
    like, too, unlike = create(
        model="tiny", input=["The dog ran after the ball.", "A puppy chased a ball.", "Mom baked bread."]
    ).data
    assert len(like.embedding) == 256
    products = [sum(x * y for x, y in zip(like.embedding, other.embedding, strict=True)) for other in (too, unlike)]
    assert products[0] > products[1]
    assert len(create(model="tiny", input="A", dimensions=16, encoding_format="float").data[0].embedding) == 16
    with pytest.raises(openai.BadRequestError, match="send texts"):
        create(model="tiny", input=[1, 2])


def test_completions_seeds_and_n(server: Server):
    create = server.client.completions.create
    two = create(model="tiny", prompt="Once upon a time", max_tokens=12, n=2, seed=3)
    assert [choice.finish_reason for choice in two.choices] == ["length", "length"]
    assert create(model="tiny", prompt="Once upon a time", max_tokens=12, seed=4).choices[0].text == two.choices[1].text
    assert two.usage.completion_tokens == 24 and two.usage.model_extra["diffusion"]["nfe"] > 0


def test_streams_with_and_without_drafts(server: Server):
    create = server.client.completions.create
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 24, "seed": 3}
    whole = create(**body).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in create(**body, stream=True)) == whole
    chunks = list(create(**body, stream=True, stream_options={"include_usage": True}, extra_body={"diffusing": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens == 24
    views = [chunk.model_extra["diffusion"] for chunk in chunks if "diffusion" in chunk.model_extra]
    assert any(token["state"] == "draft" for view in views[:-1] for token in view["tokens"])


def test_stop_strings(server: Server):
    create = server.client.completions.create
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 60, "seed": 3}
    whole = create(**body).choices[0].text
    cut = create(**body, stop=["."]).choices[0]
    assert cut.text == whole.partition(".")[0] and cut.finish_reason == "stop"


def test_the_fields_of_diffusion_go_through_the_client(server: Server):
    answer = server.client.completions.create(
        model="tiny", prompt="Tom", max_tokens=16, seed=1, extra_body={"steps": 4, "sampler": "margin"}
    )
    assert answer.usage.model_extra["diffusion"]["nfe"] == 4
    assert answer.model_extra["diffusion"]["settings"]["steps"] == 4


def test_models(server: Server):
    assert [model.id for model in server.client.models.list()] == ["tiny", "talk"]
    assert server.client.models.retrieve("tiny").id == "tiny"


def test_errors_are_the_clients_own_classes(server: Server):
    create = server.client.completions.create
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="tiny", prompt="Tom", extra_body={"frobnicate": 1})
    assert (caught.value.param, caught.value.code) == ("frobnicate", "unknown_parameter")
    with pytest.raises(openai.BadRequestError, match="256 tokens"):
        create(model="tiny", prompt="Tom", max_tokens=300)
    with pytest.raises(openai.NotFoundError):
        create(model="gpt", prompt="Tom")
    with pytest.raises(openai.AuthenticationError):
        server.client.with_options(api_key="sk-bad").completions.create(model="tiny", prompt="Tom")
    with pytest.raises(openai.APIStatusError) as caught:
        create(model="tiny", prompt="x" * 30_000)
    assert caught.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="conversations"):
        server.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])


def test_chat_streamed_and_whole(server: Server):
    create = server.client.chat.completions.create
    body = {"model": "talk", "messages": [{"role": "user", "content": "Who is Tom?"}], "seed": 1, "max_tokens": 16}
    whole = create(**body, logprobs=True, top_logprobs=2)
    message = whole.choices[0].message
    assert message.role == "assistant" and "".join(one.token for one in whole.choices[0].logprobs.content)
    deltas = [chunk.choices[0].delta for chunk in create(**body, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == message.content and deltas[0].role == "assistant"
    again = create(**body | {"messages": [*body["messages"], message, {"role": "user", "content": "And?"}]})
    assert again.choices[0].message.content


class Person(pydantic.BaseModel):
    name: Literal["Tom", "Lily"]
    happy: bool


def test_answers_that_the_client_parses(server: Server):
    messages = [{"role": "user", "content": "Who?"}]
    parse = server.client.chat.completions.parse
    answer = parse(model="talk", messages=messages, response_format=Person, max_tokens=40, seed=1)
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_tools_that_the_client_parses(server: Server):
    messages = [{"role": "user", "content": "Who?"}]
    tools = [openai.pydantic_function_tool(Person, name="find")]
    parse = server.client.chat.completions.parse
    answer = parse(model="talk", messages=messages, tools=tools, tool_choice="required", max_tokens=60, seed=1)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "find" and isinstance(call.function.parsed_arguments, Person)
    assert answer.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "yes"}
    history = [*messages, answer.choices[0].message, result]
    assert server.client.chat.completions.create(model="talk", messages=history, max_tokens=8).choices[0].message


def test_feedback_survives_the_server(server: Server):
    answer = server.client.completions.create(model="tiny", prompt="Tom", max_tokens=4)
    said = {"response_id": answer.id, "kind": "thumb", "value": 1}
    headers = {"authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{server.url}/v1/feedback", json=said, headers=headers).status_code == 201
    file = server.words[server.words.index("--feedback-url") + 1]
    with FeedbackStore(file, create=False) as store:
        ((feedback, about, _),) = store.read()
    assert (feedback.owner, about.completion) == ("me", answer.choices[0].text)


def test_the_python_of_the_docs_runs(server: Server, capsys: pytest.CaptureFixture):
    page = (Path(__file__).parents[2] / "docs/serve.md").read_text("utf-8")
    names: dict = {}
    for block in re.findall(r"```py\n(.*?)```", page, re.S):
        block = block.replace("http://127.0.0.1:8000", server.url).replace('api_key="none"', f'api_key="{KEY}"')
        exec(compile(block, "docs/serve.md", "exec"), names)
    names["client"].close()
    assert "░" in capsys.readouterr().out


def test_the_page_comes_with_a_policy(server: Server):
    page = httpx.get(server.url, headers={"host": "example.com"})  # with keys, any name will do
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    script = httpx.get(f"{server.url}/app.js")
    assert script.headers["content-type"].startswith("text/javascript")


def test_too_many_requests_are_a_429():
    server = Server("--rate", "2")
    try:
        for _ in range(2):
            server.client.completions.create(model="tiny", prompt="Tom", max_tokens=2)
        with pytest.raises(openai.RateLimitError) as caught:
            server.client.completions.create(model="tiny", prompt="Tom", max_tokens=2)
        assert int(caught.value.response.headers["retry-after"]) > 0
    finally:
        assert server.end() == (0, "")


def test_a_model_is_swapped_while_the_server_runs(tmp_path: Path):
    shutil.copytree(find_bundle("tiny"), tmp_path / "m")
    server = Server("--model", f"m={tmp_path / 'm'}")
    try:
        before = server.client.completions.create(model="m", prompt="Tom", max_tokens=2).system_fingerprint
        config = json.loads((tmp_path / "m/config.json").read_text())
        (tmp_path / "m/config.json").write_text(json.dumps(config | {"chat": {}}))
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 20
        while server.client.completions.create(model="m", prompt="Tom", max_tokens=2).system_fingerprint == before:
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        code, said = server.end()
        assert code == 0 and "model m: read anew" in said


def test_a_full_queue_is_a_503(server: Server):
    def ask(seed: int) -> int:
        try:
            server.client.completions.create(model="tiny", prompt="Tom", max_tokens=100, n=2, seed=seed)
        except openai.InternalServerError as error:
            return error.status_code
        return 200

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(ask, range(6)))
    assert 503 in statuses and 200 in statuses and set(statuses) == {200, 503}


def test_who_leaves_frees_the_rows(server: Server):
    body = {"model": "tiny", "prompt": "Tom", "max_tokens": 250, "seed": 1, "n": 2, "temperature": 1.0, "steps": 250}
    body |= {"sampler": "left_to_right"}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**body, "stream": True}, headers=headers) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert server.stats()["running"] == 2
    assert idle_soon(server)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=0.5)
    assert idle_soon(server)


def test_a_stream_can_be_cancelled_by_its_id(server: Server):
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"prompt": "Tom", "max_tokens": 250, "seed": 1, "steps": 250, "sampler": "left_to_right", "stream": True}
    chunks = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line.removeprefix("data: ")))
            if len(chunks) == 3:
                cancelled = httpx.post(f"{server.url}/v1/cancel", json={"id": chunks[0]["id"]}, headers=headers)
                assert cancelled.status_code in (200, 404)
    assert chunks[-1]["choices"][0]["finish_reason"] == "cancelled" and line == "" and len(chunks) < 200


def idle_soon(server: Server) -> bool:
    end = time.monotonic() + 2
    while time.monotonic() < end:
        if server.stats()["running"] == 0:
            return True
        time.sleep(0.02)
    return False


def test_a_stop_lets_requests_finish_and_takes_no_more(tmp_path: Path):
    server = Server("--grace", "20")
    with ThreadPoolExecutor(1) as pool:
        body = {"model": "tiny", "prompt": "Tom", "max_tokens": 100, "seed": 1, "n": 4}
        slow = pool.submit(lambda: server.client.completions.create(**body))
        while server.stats()["running"] == 0:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert len(slow.result().choices) == 4
    assert server.end() == (0, "")


def test_a_second_signal_waits_for_nobody():
    server = Server("--grace", "100")
    body = {"prompt": "Tom", "max_tokens": 250, "steps": 4000, "sampler": "ancestral", "n": 8, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as stream:
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(httpx.TransportError):
            while True:
                httpx.get(f"{server.url}/health")
        server.process.send_signal(signal.SIGINT)
        assert "shutting down" in stream.read().decode()
    assert server.end() == (0, "")


def test_what_the_grace_does_not_suffice_for_gets_a_503():
    server = Server("--grace", "0.2")
    with ThreadPoolExecutor(1) as pool:
        body = {"model": "tiny", "prompt": "Tom", "max_tokens": 250, "seed": 1, "n": 24}
        slow = pool.submit(lambda: server.client.completions.create(**body))
        while server.stats()["running"] == 0:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError) as caught:
            slow.result()
    assert caught.value.status_code == 503
    assert server.end() == (0, "")


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(["--port", str(taken.getsockname()[1])], "cannot listen at 127.0.0.1:", capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "nowhere"], "no such model"),
        (["--model", "a=tiny,a=tiny-ar"], "two models are called 'a'"),
        (["--api-key-file", os.devnull], "holds no key"),
        (["--api-key-file", "/nowhere/keys"], "No such file"),
        (["--port", "99999"], "at most 65535"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (["--feedback-url", "mysql://a/b"], "not supported"),
    ],
)
def test_what_cannot_be_served_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture):
    refused(words, said, capsys)


def refused(words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["serve", "--feedback-url", "none", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sfumato: ") and said in err and err.count("\n") == 1
