"""Questions out of records, and answers to them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from applications import records

from sfumato.config import ConfigError
from sfumato.config.scoring import ScoreConfig
from sfumato.evaluate.questions import answer, questions
from sfumato.sample.language_model import LanguageModel


def file(tmp_path: Path, found: list[dict]) -> str:
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in found), encoding="utf-8")
    return str(path)


def test_a_field_with_a_list_gives_several_references(tmp_path: Path):
    config = ScoreConfig(file(tmp_path, records("translation")), "To French: {en}", "{fr}", ("bleu",))
    first = questions(config)[0]
    assert first.prompt == "To French: A girl runs to the park."
    assert first.references == ("Une fille court au parc.", "une fille court au parc")
    one = replace(config, references="{fr[1]}", prompt="")
    assert [question.prompt for question in questions(one, "{en}", at_most=2)] == [
        "A girl runs to the park.",
        "My friend runs to the park.",
    ]  # evenly spread


def test_a_conversation_asks_for_its_last_turn(tmp_path: Path):
    config = ScoreConfig(file(tmp_path, records("services")), metrics=("chrf",))
    first = questions(config)[0]
    assert first.prompt == "Thanks" and first.references == ("Bye!",) and len(first.conversation) == 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"en": "Go."}, "held.jsonl:1: no field 'fr'"),
        ({"en": "Go.", "fr": []}, "held.jsonl:1: fr: expected texts, got []"),
        ({"fr": ["Va !"]}, "held.jsonl:1: no field 'en'"),
    ],
)
def test_what_a_record_lacks_is_told(tmp_path: Path, record: dict, message: str):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        questions(ScoreConfig(file(tmp_path, [record]), "{en}", "{fr}", ("bleu",)))


def test_a_section_that_judges_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="score.metrics: expected some of bleu"):
        ScoreConfig("a.jsonl", "{a}", "{b}")
    with pytest.raises(ConfigError, match="score.choices are judged by"):
        ScoreConfig("a.jsonl", "{a}", "{b}", ("bleu",), ("good", "bad"))
    with pytest.raises(ConfigError, match="score.references: expected what the right answer is"):
        ScoreConfig("a.jsonl", "{a}", metrics=("bleu",))


def test_a_hole_is_filled_in_place_and_seen_from_both_sides(tmp_path: Path):
    found = [{"text": "Tom had a red ___. He kicked the ball to his dog.", "gap": "ball"}]
    asked = questions(ScoreConfig(file(tmp_path, found), "{text}", "{gap}", ("exact",), hole="___"))
    model, twin = (LanguageModel.load(name, "cpu", "float32") for name in ("tiny", "tiny-ar"))
    assert answer(model, asked, hole="___", temperature=0.0).texts == ("ball",)
    ahead = answer(twin, asked, hole="___", temperature=0.0)
    cut = [replace(asked[0], prompt="Tom had a red ___")]
    assert ahead.texts == answer(twin, cut, hole="___", temperature=0.0).texts  # it cannot look ahead
    with pytest.raises(ValueError, match=r"score.hole: no '\?' in the prompt"):
        answer(model, asked, hole="?")


def test_answers_do_not_depend_on_the_batch(tmp_path: Path):
    config = ScoreConfig(file(tmp_path, records("services")), metrics=("chrf",))
    asked, model = questions(config, at_most=5), LanguageModel.load("tiny-chat", "cpu", "float32")
    model.denoiser.double()  # in float32 rounding may choose another word
    together = answer(model, asked, max_tokens=8, batch=5, seed=3)
    assert together.texts == answer(model, asked, max_tokens=8, batch=2, seed=3).texts
    assert together.nfe > 0 and together.tpf > 0
