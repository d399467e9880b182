"""Completions, and the hole between a prompt and a suffix."""

import pytest

PROMPTS = ["Once upon a time", "Tom", "The big dog ran", "Lily", "One day", "A", "The sun", "Ben saw a cat"]
PATH = "/v1/completions"


def text(response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["text"]


def refused(response, param: str | None, code: str | None = None) -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert code is None or error["code"] == code
    return error["message"]


def test_an_answer_has_what_openai_promises(here):
    answer = here.post(PATH, model="tiny", prompt="Once upon a time", max_tokens=10, seed=1).json()
    assert answer["id"].startswith("cmpl-") and answer["object"] == "text_completion" and answer["model"] == "tiny"
    assert answer["system_fingerprint"] == here.workers.versions["tiny"]
    (choice,) = answer["choices"]
    assert choice["index"] == 0 and choice["finish_reason"] == "length" and choice["text"]
    usage = answer["usage"]
    assert usage["completion_tokens"] == 10 and usage["total_tokens"] == usage["prompt_tokens"] + 10
    assert usage["diffusion"]["nfe"] >= 1 and usage["diffusion"]["positions_evaluated"] > 10
    assert usage["diffusion"]["tpf"] == pytest.approx(10 / usage["diffusion"]["nfe"], abs=1e-3)
    assert answer["diffusion"]["seed"] == 1 and answer["diffusion"]["sampler"] == "threshold"


def test_a_seed_says_it_all_and_n_counts_on_from_it(here):
    three = here.post(PATH, prompt="Tom", max_tokens=12, seed=5, n=3).json()["choices"]
    assert [choice["index"] for choice in three] == [0, 1, 2]
    for i, choice in enumerate(three):
        assert text(here.post(PATH, prompt="Tom", max_tokens=12, seed=5 + i)) == choice["text"]


def test_without_a_seed_one_is_drawn_and_told(here):
    first = here.post(PATH, prompt="Tom", max_tokens=12).json()
    second = here.post(PATH, prompt="Tom", max_tokens=12).json()
    assert first["diffusion"]["seed"] != second["diffusion"]["seed"]
    again = here.post(PATH, prompt="Tom", max_tokens=12, seed=first["diffusion"]["seed"])
    assert text(again) == first["choices"][0]["text"]


def test_eight_at_once_are_eight_alone(here):
    bodies = [{"prompt": prompt, "max_tokens": 16, "seed": i} for i, prompt in enumerate(PROMPTS)]
    together = [text(response) for response in here.many(PATH, bodies)]
    assert together == [text(here.post(PATH, **body)) for body in bodies]
    assert max(here.workers.stats().batch) > 1


def test_prompts_in_a_list_are_answered_in_order(here):
    both = here.post(PATH, prompt=["Tom", "Lily"], max_tokens=8, seed=3, n=2).json()
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    assert both["choices"][3]["text"] == text(here.post(PATH, prompt="Lily", max_tokens=8, seed=4))
    assert both["usage"]["prompt_tokens"] == 4


def test_a_stream_adds_up_to_the_answer(here):
    body = {"prompt": "Once upon a time", "max_tokens": 24, "seed": 2, "n": 2}
    whole, texts, ends = here.post(PATH, **body).json(), ["", ""], ["", ""]
    for chunk in here.chunks(PATH, **body):
        assert chunk["object"] == "text_completion" and "diffusion" not in chunk and "usage" not in chunk
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        ends[choice["index"]] = choice["finish_reason"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert ends == [choice["finish_reason"] for choice in whole["choices"]]


def test_a_stream_shows_the_text_as_it_appears(here):
    options = {"include_usage": True}
    chunks = here.chunks(PATH, prompt="Tom", max_tokens=12, seed=1, diffusing=True, stream_options=options)
    views = [chunk["diffusion"] for chunk in chunks if "diffusion" in chunk and "text" in chunk["diffusion"]]
    assert views[0]["step"] == 0 and views[0]["text"] == "░" * 12 and views[0]["masked"] == [[0, 12]]
    assert views[-1]["masked"] == [] and all(token["state"] == "committed" for token in views[-1]["tokens"])
    assert any(token["state"] == "draft" for view in views for token in view["tokens"])
    assert all(chunk["choices"] == [] for chunk in chunks if "diffusion" in chunk)
    deltas = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert deltas == views[-1]["text"]
    assert chunks[-1]["usage"]["completion_tokens"] == 12 and chunks[-1]["diffusion"]["done"] is True
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_a_text_and_only_that_one(here, stream: bool):
    body = {"prompt": "Once upon a time", "max_tokens": 40, "seed": 3, "n": 3}
    free = [choice["text"] for choice in here.post(PATH, **body).json()["choices"]]
    stop = free[0][6:9]
    expected = [one.partition(stop)[0] for one in free]
    body["stop"] = [stop, "§§"]
    if stream:
        texts = ["", "", ""]
        for chunk in here.chunks(PATH, **body):
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    else:
        choices = here.post(PATH, **body).json()["choices"]
        texts = [choice["text"] for choice in choices]
        assert choices[0]["finish_reason"] == "stop"
    assert texts == expected


def test_logprobs_belong_to_their_tokens(here):
    choice = here.post(PATH, prompt="Tom", max_tokens=8, seed=1, logprobs=3).json()["choices"][0]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"] and len(told["tokens"]) == 8
    assert all(value <= 0 for value in told["token_logprobs"])
    assert all(len(best) == 3 for best in told["top_logprobs"])
    assert told["text_offset"][0] == 0
    streamed = [c["choices"][0]["logprobs"] for c in here.chunks(PATH, prompt="Tom", max_tokens=8, seed=1, logprobs=3)]
    assert [token for part in streamed if part for token in part["tokens"]] == told["tokens"]
    assert [at for part in streamed if part for at in part["text_offset"]] == told["text_offset"]


@pytest.mark.parametrize("path", [PATH, "/v1/fim/completions"])
def test_the_hole_between_prompt_and_suffix(here, path: str):
    answer = here.post(path, prompt="Tom had a", suffix=" ball. He was happy.", max_tokens=3, seed=1).json()
    assert answer["usage"]["completion_tokens"] == 3
    template = here.post("/v1/denoise", template="Tom had a{3} ball. He was happy.", seed=1).json()
    assert template["text"] == "Tom had a" + answer["choices"][0]["text"] + " ball. He was happy."


def test_an_empty_suffix_is_an_open_end(here):
    answer = here.post("/v1/fim/completions", prompt="Tom", max_tokens=8, seed=1)
    assert text(answer) == text(here.post(PATH, prompt="Tom", max_tokens=8, seed=1))


def test_the_other_model_is_an_autoregressive_one(here):
    answer = here.post(PATH, model="tiny-ar", prompt="Once upon a time", max_tokens=8, seed=1).json()
    assert answer["model"] == "tiny-ar" and answer["usage"]["diffusion"]["nfe"] == 8


def test_effort_is_a_budget_of_steps(here):
    nfe = {}
    for effort in ("instant", "low", "high"):
        body = {"prompt": "Tom", "max_tokens": 32, "seed": 1, "sampler": "margin", "reasoning_effort": effort}
        nfe[effort] = here.post(PATH, **body).json()["usage"]["diffusion"]["nfe"]
    assert nfe["instant"] <= 5 < nfe["low"] <= 9 and nfe["high"] > 16


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"n": 33}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"logprobs": 4}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"sampler": "file.py:Mine"}, "sampler"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"sampler": "euler", "model": "tiny-ar"}, "sampler"),
        ({"sampler": "ddim"}, "sampler"),
        ({"block_length": 1000}, "block_length"),
        ({"steps": 1, "block_length": 4}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"prompt": "a\0b"}, None),
        ({"regex": "a", "choice": ["a"]}, "choice"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_what_cannot_be_done_is_refused_by_name(here, body: dict, param: str | None):
    refused(here.post(PATH, **{"prompt": "Tom", "max_tokens": 8} | body), param)


def test_values_that_change_nothing_are_accepted(here):
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "me", "metadata": {"a": "b"}}
    neutral |= {"store": False, "echo": False, "best_of": 1, "service_tier": "auto", "n": None, "suffix": None}
    assert text(here.post(PATH, prompt="Tom", max_tokens=4, seed=1, **neutral))


def test_more_than_the_context_holds_is_refused_with_numbers(here):
    message = refused(here.post(PATH, prompt="Tom", max_tokens=500), "max_tokens", "context_length_exceeded")
    assert "256" in message and "502" in message
    refused(here.post(PATH, prompt="Tom " * 400, max_tokens=5), "prompt", "context_length_exceeded")


def test_without_a_length_the_text_ends_with_the_context(here):
    answer = here.post(PATH, prompt=" word" * 240, seed=1)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] <= 15


def test_an_unknown_model_is_not_found(here):
    response = here.post(PATH, model="gpt-4", prompt="Tom")
    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"
