"""The server with models whose tokenizers are not ours: streams, conversations, templates, edits, structured output."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign_models import tiny_bundle
from foreign_tokenizers import bert, llama2, llama3, qwen, xlmr

from sfumato.sample.constraint import json_schema
from sfumato.sample.front import Front
from sfumato.text.chat import ChatTemplate, Turn

PATTERN = '\\{"late": (true|false)\\}'
MODELS = ("qwen", "dream", "llama3", "bert", "xlmr", "llama2")
HEADER = ("<|start_header_id|>", "user", "<|end_header_id|>", "\n\n")
CHATS = {
    "qwen": ChatTemplate(
        system=Turn(("<|im_start|>", "system\n"), ("<|im_end|>", "\n")),
        user=Turn(("<|im_start|>", "user\n"), ("<|im_end|>", "\n")),
        assistant=Turn(("<|im_start|>", "assistant\n"), ("<|im_end|>", "\n")),
        cue=("<|im_start|>", "assistant\n"),
    ),
    "llama3": ChatTemplate(None, Turn(HEADER, ("<|eot_id|>",)), Turn(HEADER, ("<|eot_id|>",)), HEADER),
    "llama2": ChatTemplate(None, Turn(("[INST] ",), (" [/INST]",)), Turn((), ("</s>",)), ()),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {"qwen": qwen, "dream": qwen, "llama3": llama3, "bert": bert, "xlmr": xlmr, "llama2": llama2}
    found = {name: tmp_path_factory.mktemp("foreign") / name for name in MODELS}
    for name, folder in found.items():
        chat = CHATS[name].to_dict() if name in CHATS else None
        tiny_bundle(*made[name](), shift=int(name == "dream"), chat=chat).save(folder)
    return found


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], served_alone: Callable) -> Iterator[Any]:
    with served_alone({name: str(folder) for name, folder in folders.items()}) as make:
        yield make()


@pytest.fixture(scope="module")
def fronts(folders: dict[str, Path]) -> dict[str, Front]:
    return {name: Front.load(folder) for name, folder in folders.items()}


def ok(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("prompt", ["the cat", ""])
def test_a_stream_tells_the_text_that_comes_at_once(served: Any, model: str, prompt: str):
    body = {"model": model, "prompt": prompt, "max_tokens": 12, "seed": 5}
    (choice,) = ok(served.post("/v1/completions", **body))["choices"]
    pieces = [one["text"] for chunk in served.chunks("/v1/completions", **body) for one in chunk["choices"]]
    assert "".join(pieces) == choice["text"]
    if not prompt:
        assert not choice["text"].startswith(" ") or model in ("qwen", "dream", "llama3", "llama2")


@pytest.mark.parametrize("model", MODELS)
def test_a_hole_between_prompt_and_suffix(served: Any, fronts: dict[str, Front], model: str):
    found = ok(served.post("/v1/fim/completions", model=model, prompt="the cat", suffix=" on the mat", max_tokens=4))
    assert found["usage"]["completion_tokens"] == 4
    tokenizer = fronts[model].tokenizer
    assert tokenizer.decode(tokenizer.encode(" on the mat", continued=True), continued=True) == " on the mat"


@pytest.mark.parametrize("model", CHATS)
def test_a_conversation(served: Any, fronts: dict[str, Front], model: str):
    messages = [{"role": "user", "content": "Hello! <|im_end|></s>"}]
    body = {"model": model, "messages": messages, "max_tokens": 6, "seed": 1}
    found = ok(served.post("/v1/chat/completions", **body))
    row, _ = fronts[model].conversation(messages, 6)
    assert found["usage"]["prompt_tokens"] == len(row.tokens) - 6
    chunks = served.chunks("/v1/chat/completions", **body)
    told = "".join(one["delta"].get("content") or "" for chunk in chunks for one in chunk["choices"])
    assert told == found["choices"][0]["message"]["content"]
    refused = served.post(
        "/v1/chat/completions", **body | {"messages": [{"role": "system", "content": "x"}, *messages]}
    )
    assert refused.status_code == (200 if model == "qwen" else 400)
    without = served.post("/v1/chat/completions", **body | {"model": "bert"})
    assert without.status_code == 400 and "was not trained on conversations" in without.text


@pytest.mark.parametrize("model", MODELS)
def test_places_are_written_anew(served: Any, fronts: dict[str, Front], model: str):
    tokenizer = fronts[model].tokenizer
    begin = len(tokenizer.begin)
    filled = ok(served.post("/v1/denoise", model=model, template="{2} cat {3}", seed=2))
    row = filled["tokens"]
    assert row[:begin] == list(tokenizer.begin) and filled["editable"][begin : begin + 2] == [True, True]
    assert filled["text"] == tokenizer.decode(row[: row.index(tokenizer.end_id)])
    again = ok(served.post("/v1/denoise", model=model, tokens=row, noise=[begin], seed=3))
    assert again["tokens"][begin + 1 :] == row[begin + 1 :]
    warm = ok(served.post("/v1/denoise", model=model, warm_start={"tokens": row, "strength": 0.5}, seed=3))
    assert len(warm["tokens"]) == len(row)
    pinned = ok(served.post("/v1/denoise", model=model, template="{3} cat", pinned={str(begin): row[-2]}, seed=2))
    assert pinned["tokens"][begin] == row[-2]
    if begin:
        wrong = served.post("/v1/denoise", model=model, tokens=row[begin:], noise=[1])
        assert wrong.status_code == 400 and f"must begin with the start token {tokenizer.begin[0]}" in wrong.text
    else:
        assert served.post("/v1/denoise", model=model, tokens=row, noise=[len(row)]).status_code == 400


@pytest.mark.parametrize("model", MODELS)
def test_a_text_is_edited(served: Any, model: str):
    body = {"model": model, "text": "the cat was late", "edits": [{"start": 4, "end": 7}], "seed": 1}
    found = ok(served.post("/v1/edit/completions", **body))
    assert found["text"].startswith("the") and found["text"].endswith("was late")


@pytest.mark.parametrize("model", ["qwen", "dream", "bert", "xlmr"])
def test_influence(served: Any, fronts: dict[str, Front], model: str):
    tokenizer = fronts[model].tokenizer
    tokens = [*tokenizer.begin, *tokenizer.encode("the little cat")]
    first = len(tokenizer.begin)
    found = ok(served.post("/v1/influence", model=model, tokens=tokens, position=first))
    assert [one["position"] for one in found["influence"]] == list(range(first + 1, len(tokens)))


@pytest.mark.parametrize("model", ["qwen", "llama3", "llama2", "xlmr"])
def test_structured_output(served: Any, fronts: dict[str, Front], model: str):
    schema = {"type": "object", "properties": {"late": {"type": "boolean"}}, "required": ["late"]}
    schema["additionalProperties"] = False
    json_schema(schema, fronts[model].tokenizer)  # what it imports may take longer than a request
    found = ok(
        served.post("/v1/completions", model=model, prompt="", max_tokens=30, regex='\\{"late": (true|false)\\}')
    )
    assert json.loads(found["choices"][0]["text"])["late"] in (True, False)
    if model in CHATS:
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        messages = [{"role": "user", "content": "Late?"}]
        body = {"model": model, "messages": messages, "max_tokens": 30, "response_format": asked}
        found = ok(served.post("/v1/chat/completions", **body))
        assert json.loads(found["choices"][0]["message"]["content"])["late"] in (True, False)


def test_keywords_stand_in_the_text(folders: dict[str, Path]):
    from sfumato.sample.language_model import LanguageModel

    for name in ("qwen", "dream", "llama3", "xlmr", "llama2", "bert"):
        model = LanguageModel.load(folders[name])
        for prompt in ("it's", ""):
            found = model.generate(prompt, max_tokens=20, keywords=["cat", "little"], seed=4)
            assert "cat" in found.text and "little" in found.text, name


def test_grammars_travel_to_the_worker(served: Any):
    pytest.importorskip("llguidance")
    found = ok(served.post("/v1/completions", model="qwen", prompt="", max_tokens=12, grammar='start: "yes" | "no"'))
    assert found["choices"][0]["text"] in ("yes", "no")
