"""Denoising, editing and influence."""

import pytest

PATH = "/v1/denoise"


def refused(response, param: str | None) -> str:
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    return response.json()["error"]["message"]


def test_a_template_keeps_its_text_and_fills_its_holes(here):
    answer = here.post(PATH, template="Tom {4} a dog {3}.", seed=2).json()
    assert answer["text"].startswith("Tom ") and " a dog " in answer["text"] and answer["text"].endswith(".")
    assert answer["id"].startswith("dns-") and answer["object"] == "denoise" and answer["seed"] == 2
    assert answer["editable"].count(True) == 7 and len(answer["tokens"]) == len(answer["editable"])
    assert "".join(answer["pieces"]) == answer["text"] and answer["usage"]["completion_tokens"] == 7
    states = [token["state"] for token in answer["diffusion"]["tokens"]]
    assert states == ["committed" if editable else "given" for editable in answer["editable"]]
    assert here.post(PATH, template="Tom {4} a dog {3}.", seed=2).json()["text"] == answer["text"]


def test_a_stream_begins_with_the_template_and_ends_with_the_answer(here):
    body = {"template": "Tom {4} a dog {3}.", "seed": 2}
    chunks, whole = here.chunks(PATH, **body), here.post(PATH, **body).json()
    first, last = chunks[0]["diffusion"], chunks[-1]
    assert first["step"] == 0 and first["text"] == "Tom ░░░░ a dog ░░░."
    assert [token["state"] for token in first["tokens"]].count("masked") == 7
    assert last["text"] == whole["text"] and last["tokens"] == whole["tokens"] and last["diffusion"]["done"]
    assert all(chunk["choices"] == [] and chunk["id"] == chunks[0]["id"] for chunk in chunks)
    assert [chunk["diffusion"]["step"] for chunk in chunks] == sorted(chunk["diffusion"]["step"] for chunk in chunks)


def test_places_of_a_text_are_written_anew(here):
    tokens = here.post(PATH, template="Tom had a red{3} and was happy.", seed=1).json()["tokens"]
    answer = here.post(PATH, tokens=tokens, noise=[2, 3], seed=9).json()
    kept = [i for i in range(len(tokens)) if i not in (2, 3)]
    assert [answer["tokens"][i] for i in kept] == [tokens[i] for i in kept]
    assert [i for i, editable in enumerate(answer["editable"]) if editable] == [2, 3]


def test_masks_among_tokens_are_holes(here):
    answer = here.post(PATH, tokens=[3, 843, 0, 0, 20, 1], seed=1).json()
    assert 0 not in answer["tokens"] and answer["editable"] == [False, False, True, True, False, False]


def test_pinned_tokens_stand_where_they_were_put(here):
    answer = here.post(PATH, template="Tom{6}.", pinned={"3": 695, "5": 265}, seed=1).json()
    assert answer["tokens"][3] == 695 and answer["tokens"][5] == 265
    assert answer["editable"].count(True) == 4


def test_a_warm_start_writes_a_share_anew(here):
    tokens = here.post(PATH, template="Tom {*}", max_tokens=40, seed=1).json()["tokens"]
    shares = []
    for strength in (0.1, 0.5, 1.0):
        body = {"warm_start": {"tokens": tokens, "strength": strength}, "seed": 4}
        answer = here.post(PATH, **body).json()
        shares.append(answer["editable"].count(True))
        assert all(a == b for a, b, e in zip(answer["tokens"], tokens, answer["editable"], strict=True) if not e)
    assert 1 <= shares[0] < shares[1] < shares[2] == len(tokens) - 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "template"),
        ({"template": "a{2}", "tokens": [3, 5]}, "tokens"),
        ({"template": "no hole"}, "template"),
        ({"template": "a{2}", "noise": [1]}, "noise"),
        ({"template": "{*} b"}, "template"),
        ({"template": "a{400}"}, "template"),
        ({"tokens": [3, 50, 60]}, None),
        ({"tokens": [50, 0]}, "tokens"),
        ({"tokens": [3, 99999]}, "tokens"),
        ({"tokens": [3] * 300}, "tokens"),
        ({"tokens": [3, 50], "noise": [0]}, "noise"),
        ({"tokens": [3, 50], "noise": [2]}, "noise"),
        ({"template": "a{2}", "pinned": {"9": 5}}, "pinned"),
        ({"template": "a{2}", "pinned": {"2": 99999}}, "pinned"),
        ({"template": "a{2}", "pinned": {"x": 5}}, "pinned.x"),
        ({"warm_start": {"tokens": [3]}}, None),
        ({"template": "a{?}"}, "template"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(here, body: dict, param: str | None):
    refused(here.post(PATH, **body), param)


def test_an_edit_changes_its_span_only(here):
    text = "Tom had a red ball. He was happy."
    answer = here.post("/v1/edit/completions", text=text, edits=[{"start": 10, "end": 13}], seed=2).json()
    assert answer["text"].startswith("Tom had a") and answer["text"].endswith(" ball. He was happy.")
    assert answer["object"] == "edit" and answer["editable"].count(True) == 1


def test_what_is_around_a_new_text_follows_it(here):
    text, edits = "Tom had a red ball. He was happy.", [{"start": 0, "end": 3, "text": "Lily"}]
    answer = here.post("/v1/edit/completions", text=text, edits=edits, context=2, seed=2).json()
    assert answer["text"].startswith("Lily") and answer["text"].endswith(" red ball. He was happy.")
    assert answer["editable"].count(True) == 2


def test_several_edits_in_any_order(here):
    text = "Tom had a red ball."
    edits = [{"start": 14, "end": 18, "text": "car"}, {"start": 3, "end": 3, "length": 2}]
    answer = here.post("/v1/edit/completions", text=text, edits=edits, context=0, seed=2).json()
    assert answer["text"].startswith("Tom") and answer["text"].endswith(" had a red car.")


@pytest.mark.parametrize(
    ("edits", "param"),
    [
        ([], "edits"),
        ([{"start": 5, "end": 2}], "edits[0]"),
        ([{"start": 0, "end": 99}], "edits[0]"),
        ([{"start": 0, "end": 3}, {"start": 2, "end": 4}], "edits[1]"),
        ([{"start": 1, "end": 1}], "edits[0].length"),
        ([{"start": 0, "end": 1, "length": 1, "text": "a"}], "edits[0]"),
        ([{"start": 0, "end": 1, "length": 999}], "text"),
    ],
    ids=str,
)
def test_edits_that_make_no_sense_are_refused(here, edits: list, param: str):
    refused(here.post("/v1/edit/completions", text="Tom had a ball.", edits=edits), param)


def test_influence_names_every_other_token(here):
    tokens = here.post("/tokenize", text="Tom had a red ball.").json()["tokens"]
    answer = here.post("/v1/influence", tokens=[3, *tokens], position=2).json()
    assert answer["position"] == 2 and answer["text"] == " had" and 0 < answer["probability"] <= 1
    assert [one["position"] for one in answer["influence"]] == [i for i in range(1, len(tokens) + 1) if i != 2]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tokens": [3, 50], "position": 5}, "position"),
        ({"tokens": [3, 50], "position": 0}, "position"),
        ({"tokens": [3, 99999], "position": 1}, "tokens"),
        ({"tokens": [], "position": 1}, "tokens"),
        ({"tokens": [3, 50], "position": 1, "model": "tiny-ar"}, None),
    ],
)
def test_influence_without_sense_is_refused(here, body: dict, param: str | None):
    refused(here.post("/v1/influence", **body), param)
