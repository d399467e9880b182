"""`/v1/embeddings`, as OpenAI's clients ask for it."""

import base64
import threading

import numpy as np
import pytest
import torch

from sfumato.sample.language_model import LanguageModel
from sfumato.serve.engine import Engine, Job, Reading

TEXTS = ["The dog ran.", "Mom baked bread in the oven. " * 40, "Größe"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load("tiny", "cpu", "float32")


def test_texts_become_the_model_s_own_embeddings(here, model: LanguageModel):
    answer = here.post("/v1/embeddings", model="tiny", input=TEXTS).json()
    assert (answer["object"], answer["model"]) == ("list", "tiny")
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    found = torch.tensor([one["embedding"] for one in answer["data"]])
    assert torch.allclose(found, model.embed(TEXTS), atol=1e-5)
    size = sum(map(len, model.tokenizer.encode_batch(TEXTS)))
    assert answer["usage"] == {"prompt_tokens": size, "total_tokens": size}


def test_base64_is_the_same_in_little_endian_float32(here):
    plain, packed = (
        here.post("/v1/embeddings", input="The dog ran.", encoding_format=form).json()["data"][0]["embedding"]
        for form in ("float", "base64")
    )
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == pytest.approx(plain, abs=1e-7)


def test_fewer_dimensions_still_have_length_1(here):
    row = here.post("/v1/embeddings", input="The dog ran.", dimensions=8).json()["data"][0]["embedding"]
    assert len(row) == 8 and sum(x * x for x in row) == pytest.approx(1)


def test_autoregressive_models_have_embeddings_too(here):
    assert len(here.post("/v1/embeddings", model="tiny-ar", input="The dog").json()["data"][0]["embedding"]) == 256


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ["a", ""]}, "input[1]", "at least 1 character"),
        ({"input": [3, 5]}, "input", "token ids of another tokenizer mean nothing here; send texts"),
        ({"input": [[3, 5], [4]]}, "input", "token ids of another tokenizer"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": ["a", "b\0"]}, "input[1]", "NUL"),
        ({"input": "a", "dimensions": 257}, "dimensions", "expected 1 to 256"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "layer": 3}, "layer", "unknown or unsupported field"),
        ({}, "input", "missing field"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(here, body: dict, param: str, said: str):
    response = here.post("/v1/embeddings", **body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert said in error["message"]


def test_an_unknown_model_is_not_found(here):
    assert here.post("/v1/embeddings", model="other", input="a").status_code == 404


def test_they_are_counted(here):
    def counted() -> float:
        lines = here.ask("GET", "/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith('embedded_tokens_total{model="tiny"}'))

    before = counted()
    usage = here.post("/v1/embeddings", input="The dog ran.").json()["usage"]
    assert counted() == before + usage["total_tokens"]


def test_a_long_list_takes_turns_with_texts_being_written(model: LanguageModel):
    """Between two forwards of the reading, every running row makes a step."""
    engine = Engine()
    engine.load("tiny", "1", model)
    row = model.front.row("Once upon a time", 24)
    plan = model.front.plan({"steps": 12})
    request = plan.request(row.tokens, row.editable, steps=12, seed=1, trace=True)
    engine.submit(Job("writes", "tiny", "1", (request,)))
    texts = tuple(tuple(model.tokenizer.encode("The dog ran. " * 30)) for _ in range(56))
    engine.submit(Reading("reads", "tiny", "1", texts))
    seen: list[str] = []
    while engine.busy:
        for update in engine.step():
            if update.event is not None or update.answer is not None:
                seen.append(update.job)
    assert seen.count("reads") == 1 and seen.index("reads") == 6
    assert seen[:6] == ["writes"] * 6


def test_whoever_leaves_is_forgotten(model: LanguageModel):
    engine = Engine()
    engine.load("tiny", "1", model)
    engine.submit(Reading("reads", "tiny", "1", ((5, 6),) * 4))
    engine.cancel("reads")
    assert not engine.busy


def test_generation_goes_on_beside_a_long_list(here):
    """Both at the same time, over HTTP."""
    texts = ["The dog ran after the ball. " * 20] * 30
    answers: dict[str, int] = {}
    thread = threading.Thread(target=lambda: answers.update(read=here.post("/v1/embeddings", input=texts).status_code))
    thread.start()
    written = here.post("/v1/completions", prompt="Tom", max_tokens=8, seed=1)
    thread.join()
    assert written.status_code == 200 and answers == {"read": 200}
