"""Many texts in one run of the decoder: each as it would be alone, in order, ended by stop strings."""

from dataclasses import replace
from itertools import count

import pytest
import torch
from bundles import make

from sfumato.sample.language_model import LanguageModel
from sfumato.sample.many import KEYS, Requests
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer

TEXT = "Once upon a time there was a little cat. It sat on the mat. "
MIXED = [
    "Once upon",
    {"prompt": "a little", "max_tokens": 5, "temperature": 0.0},
    {"template": "It {3} on the {2}.", "seed": 17},
    {"prompt": "the mat", "length": 7, "sampler": "confidence", "steps": 3},
    {"messages": [{"role": "user", "content": "a cat"}], "max_tokens": 9},
    {"prompt": "", "max_tokens": 30},
    "time there",
]


def build(kind: str = "masked", **changes) -> LanguageModel:
    """A random model in float64, that ends some of its texts."""
    bundle = make(Tokenizer.train([TEXT * 3], 290), kind, chat=ChatTemplate().to_dict(), **changes)
    generator = torch.Generator().manual_seed(7)
    for parameter in bundle.denoiser.parameters():
        parameter.data.normal_(std=0.5, generator=generator)
    return LanguageModel(replace(bundle, denoiser=bundle.denoiser.double()))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build()


def alone(model: LanguageModel, request, place: int, **defaults):
    """What the methods for one text write."""
    request = {"prompt": request} if isinstance(request, str) else dict(request)
    options = {"max_tokens": 12, "seed": 3 + place, **defaults} | request
    if "messages" in options:
        return model.reply(options.pop("messages"), **options)
    if "template" in options:
        return model.infill(options.pop("template"), **options)
    return model.generate(options.pop("prompt"), **options)


@pytest.mark.parametrize("batch", [1, 2, 5, 50])
def test_every_text_is_what_it_would_be_alone(model: LanguageModel, batch: int):
    found = list(model.generate_many(MIXED, batch=batch, max_tokens=12, seed=3))
    for i, (generation, request) in enumerate(zip(found, MIXED, strict=True)):
        expected = alone(model, request, i)
        assert (generation.tokens, generation.text) == (expected.tokens, expected.text)
        assert (generation.seed, generation.finish_reason) == (expected.seed, expected.finish_reason)
        assert generation.stats.nfe == expected.stats.nfe
        assert generation.stats.committed == expected.stats.committed


def test_the_autoregressive_twin_and_blocks_write_the_same_beside_others():
    for model in (build("autoregressive"), build(layout="block", model=replace(build().bundle.config.model, block=4))):
        prompts = [request for request in MIXED if isinstance(request, str)]
        expected = model.generate(prompts, max_tokens=12, seed=3)
        found = list(model.generate_many(prompts, batch=1, max_tokens=12, seed=3))
        assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_the_next_request_is_read_when_there_is_room(model: LanguageModel):
    """So an endless stream of requests is served one text after the other."""
    read = []

    def endless():
        for i in count():
            read.append(i)
            yield {"prompt": f"cat {i % 3}", "max_tokens": 1 + i % 4}

    texts = model.generate_many(endless(), batch=3)
    assert [next(texts).seed for _ in range(10)] == list(range(10))
    assert len(read) <= 10 + 3 + 3


def test_texts_longer_than_the_context_are_written_in_windows(model: LanguageModel):
    expected = model.generate(["Once", "cat"], max_tokens=150, seed=1, steps=20)
    found = model.generate_many(["Once", "cat"], batch=1, max_tokens=150, seed=1, steps=20)
    assert [one.tokens for one in found] == [one.tokens for one in expected]


# --- stop strings


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_a_stop_string_cuts_the_text_that_would_have_been_written(kind: str):
    model = build(kind)
    prompts = ["Once upon", "the mat", "a"]
    whole = model.generate(prompts, max_tokens=40, seed=5, block=8 if kind == "masked" else None)
    stops = [one.completion[4:6] for one in whole]
    cut = model.generate(prompts, max_tokens=40, seed=5, stop=stops, block=8 if kind == "masked" else None)
    for one, full in zip(cut, whole, strict=True):
        first = min(at for stop in stops if (at := full.completion.find(stop)) >= 0)
        assert one.completion == full.completion[:first] and one.finish_reason == "stop"
        assert one.text == full.text[: len(full.text) - len(full.completion)] + one.completion
        assert one.stats.nfe < full.stats.nfe and one.stats.committed < full.stats.committed


def test_a_stop_string_in_a_later_window_ends_the_text(model: LanguageModel):
    (whole,) = model.generate(["Once"], max_tokens=180, seed=2, block=4, steps=60)
    assert whole.finish_reason == "length"
    text = whole.completion
    stop = next(s for i in range(len(text) * 2 // 3, len(text)) if text.find(s := text[i : i + 6]) == i)
    cut = model.generate("Once", max_tokens=180, seed=2, block=4, steps=60, stop=stop)
    assert cut.completion == text[: text.index(stop)] and cut.finish_reason == "stop"
    assert cut.stats.nfe < whole.stats.nfe


def test_a_text_without_the_stop_string_is_as_it_was(model: LanguageModel):
    assert model.generate("cat", max_tokens=9, stop="never there").tokens == model.generate("cat", max_tokens=9).tokens
    for stop in ("", ["a", ""], [3]):
        with pytest.raises(ValueError, match="^stop: expected a text or a list of texts, none of them empty"):
            model.generate("cat", stop=stop)


# --- requests


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"promt": "a"}, r"^requests\[1\]: unknown key 'promt'; did you mean prompt\?$"),
        ({"prompt": "a", "temprature": 1}, "did you mean temperature"),
        ({"prompt": "a", "template": "{3}"}, "expected one of prompt, template, messages, got prompt and template"),
        ({"max_tokens": 3}, "got none"),
        ({"prompt": "a", "cache": "none"}, "cache: one for all texts"),
        ({"prompt": "a", "sampler": "evil.py:Sampler"}, "only the caller may name a file"),
        ({"prompt": "a", "temperature": -1}, "temperature: expected at least 0"),
        ({"prompt": "a", "seed": 1.5}, "seed: expected a whole number"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens: expected a whole number, got 'many'"),
        ({"prompt": 5}, "prompt: expected text, got int"),
        ({"messages": "hello"}, "messages: expected a list of messages"),
        ({"messages": [{"role": "user"}]}, "content: expected text"),
        ({"template": "a {2} b", "length": 4}, "length: goes with a prompt"),
        ({"prompt": "a " * 200}, "prompt too long"),
        ({"prompt": "a", "max_tokens": 8, "block": 2, "steps": 3}, r"requests\[1\]: steps: got 3, expected at least 4"),
        ({"prompt": "a", "sampler": "ddim"}, "does not make sense for a model with the masked process"),
    ],
)
def test_a_bad_request_is_named_by_its_place(model: LanguageModel, request_: dict, message: str):
    with pytest.raises(ValueError, match=message):
        list(model.generate_many(["fine", request_], max_tokens=4))


def test_bad_defaults_are_refused(model: LanguageModel):
    with pytest.raises(ValueError, match="unknown key temprature"):
        model.generate_many([], temprature=1)
    with pytest.raises(ValueError, match="batch: expected at least 1, got 0"):
        list(model.generate_many(["a"], batch=0))


def test_requests_with_equal_settings_share_a_sampler(model: LanguageModel):
    """Else each row would be stepped by itself."""
    requests = Requests(model.front, temperature=0.5)
    one, other = requests.read("a", 0), requests.read({"prompt": "b", "seed": 9}, 1)
    assert one.plan.sampler is other.plan.sampler
    assert (one.seed, other.seed) == (0, 9) and other.plan.settings.seed == 9
    assert set(KEYS) >= {"prompt", "messages", "template", "max_tokens", "stop", "seed", "sampler"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"stop": 5}, "stop: expected a text or a list of texts, none of them empty, got 5"),
        ({"stop": True}, "stop: expected a text or a list of texts"),
        ({"max_tokens": 10**30}, "max_tokens: no room for 1000000"),
    ],
)
def test_values_that_nobody_expects_are_refused_with_the_place(model: LanguageModel, more: dict, message: str):
    with pytest.raises(ValueError, match=rf"requests\[1\]: {message}"):
        list(model.generate_many(["cat", {"prompt": "cat", **more}], max_tokens=4))
