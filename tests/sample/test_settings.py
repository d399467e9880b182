"""Settings: who decides what, and mistakes answered in one line."""

import contextlib
import math
from dataclasses import replace

import pytest

from sfumato.config import ConfigError
from sfumato.process import Autoregressive, Gaussian, Insertion, Masked, Uniform
from sfumato.sample.ancestral import Ancestral
from sfumato.sample.edit import Edit
from sfumato.sample.entropy_bounded import EntropyBounded
from sfumato.sample.euler import Euler
from sfumato.sample.factor import Factor
from sfumato.sample.first_hitting import FirstHitting
from sfumato.sample.gibbs import Gibbs
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order
from sfumato.sample.path_planning import PathPlanning
from sfumato.sample.predictor_corrector import PredictorCorrector
from sfumato.sample.remask import Remask
from sfumato.sample.settings import SAMPLERS, Settings
from sfumato.sample.threshold import Threshold


def settings(**chosen) -> Settings:
    return Settings().with_defaults({}, chosen)


def test_the_caller_beats_the_bundle_and_the_bundle_beats_the_package():
    bundle = {"sampler": "threshold", "threshold": 0.8, "temperature": 0.5}
    made = Settings().with_defaults(bundle, {"temperature": 0.9, "steps": 7})
    assert made == Settings(sampler="threshold", threshold=0.8, temperature=0.9, steps=7)


def test_none_means_not_chosen():
    made = Settings().with_defaults({"temperature": 0.5}, {"temperature": None, "sampler": None, "top_k": 3})
    assert made == Settings(temperature=0.5, top_k=3)


def test_zero_is_a_choice():
    made = Settings().with_defaults(
        {"temperature": 0.5, "block": 8, "seed": 5}, dict.fromkeys(("temperature", "block", "seed"), 0)
    )
    assert (made.temperature, made.block, made.seed) == (0.0, 0, 0)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("ancestral", Ancestral()),
        ("confidence", Order("confidence")),
        ("margin", Order("margin")),
        ("entropy", Order("entropy")),
        ("threshold", Threshold(0.7)),
        ("left_to_right", LeftToRight()),
        ("first_hitting", FirstHitting()),
        ("euler", Euler()),
        ("remdm", Remask("cap", 0.05)),
        ("p2", PathPlanning(1.0)),
    ],
)
def test_every_sampler_is_built_by_its_name(name: str, sampler):
    assert name in SAMPLERS
    built = settings(sampler=name, threshold=0.7).build_sampler(Masked(0))
    assert built == sampler and built.name == name


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_is_forgotten(name: str):
    words = Uniform(mask_id=0, vocab_size=9, never_written=(0,))
    fitting = []
    for process in (Masked(0), words, Gaussian(vocab_size=9), Autoregressive(), Insertion(0)):
        with contextlib.suppress(ConfigError):
            fitting.append(settings(sampler=name).build_sampler(process).name)
    assert fitting and set(fitting) == {name}


def test_a_text_that_may_grow_has_no_patience():
    with pytest.raises(ConfigError, match="^patience: a text that may grow"):
        settings(sampler="tau_leaping", patience=2).build_sampler(Insertion(0))


@pytest.mark.parametrize("name", ["first_hitting", "remdm", "p2", "left_to_right"])
def test_what_needs_masks_is_refused_where_noise_shows_words(name: str):
    words = Uniform(mask_id=0, vocab_size=9, never_written=(0,))
    with pytest.raises(ConfigError, match=f"^sampler: '{name}' does not make sense .* uniform process; use ancestral"):
        settings(sampler=name).build_sampler(words)


def test_each_sampler_reads_its_own_settings():
    chosen = {"eta": 0.5, "remask": "rescale", "kappa": 0.75, "factor": 0.5, "entropy_bound": 0.3, "edit_steps": 2}
    made, words = settings(**chosen), Uniform(mask_id=0, vocab_size=9, never_written=(0,))
    expected = {
        "remdm": Remask("rescale", 0.5),
        "p2": PathPlanning(0.5),
        "predictor_corrector": Remask("renoise", 0.25, "predictor_corrector"),
        "factor": Factor(0.5),
        "entropy_bounded": EntropyBounded(0.3),
        "edit": Edit(0.9, 0.9, 2),
    }
    for name, sampler in expected.items():
        assert replace(made, sampler=name).build_sampler(Masked(0)) == sampler
    as_dream = settings(judged="filtered", pace="dream", order_temperature=0.5, threshold=0.7)
    expected = {name: Order(name, "dream", 0.5, judged="filtered") for name in ("confidence", "margin", "entropy")}
    expected |= {"threshold": Threshold(0.7, judged="filtered"), "factor": Factor(judged="filtered")}
    expected |= {"entropy_bounded": EntropyBounded(judged="filtered"), "ancestral": Ancestral("dream")}
    for name, sampler in expected.items():
        assert replace(as_dream, sampler=name).build_sampler(Masked(0)) == sampler
    assert replace(made, sampler="predictor_corrector").build_sampler(words) == PredictorCorrector(0.75)
    made = settings(sampler="gibbs", corrections=3, sites=2, choice="margin")
    assert made.build_sampler(words) == Gibbs(3, 2, "margin")


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "left_to_right"])
def test_a_sampler_that_does_not_fit_the_process_names_those_that_do(name: str):
    with pytest.raises(ConfigError) as raised:
        settings(sampler=name).build_sampler(Autoregressive())
    message = str(raised.value)
    assert message.startswith(f"sampler: {name!r} does not make sense for a model with the autoregressive process")
    assert message.endswith("use left_to_right") and "\n" not in message


def test_left_to_right_fits_every_process():
    assert settings(sampler="left_to_right").build_sampler(Autoregressive()) == LeftToRight()


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"stpes": 8}, ["stpes", "did you mean steps?"]),
        ({"temprature": 1}, ["temprature", "did you mean temperature?"]),
        ({"topk": 1}, ["topk", "did you mean top_k?"]),
        ({"wibble": 1}, ["wibble", "valid keys", "temperature"]),
        ({"sampler": "margins"}, ["sampler", "'margins'", "did you mean margin?"]),
        ({"sampler": ""}, ["sampler", "''"]),
        ({"steps": 0}, ["steps", "at least 1", "0"]),
        ({"steps": 2.5}, ["steps", "a whole number", "2.5"]),
        ({"steps": "many"}, ["steps", "a whole number", "'many'"]),
        ({"steps": True}, ["steps", "a whole number", "true"]),
        ({"temperature": -0.1}, ["temperature", "at least 0", "-0.1"]),
        ({"temperature": math.nan}, ["temperature", "a number", "nan"]),
        ({"temperature": math.inf}, ["temperature", "a number", "inf"]),
        ({"top_p": 0}, ["top_p", "at least", "got 0"]),
        ({"top_p": 1.1}, ["top_p", "at most 1", "1.1"]),
        ({"top_k": -2}, ["top_k", "at least 0", "-2"]),
        ({"threshold": 2}, ["threshold", "at most 1", "2"]),
        ({"block": -4}, ["block", "at least 0", "-4"]),
        ({"seed": -1}, ["seed", "at least 0", "-1"]),
        ({"seed": 2**63}, ["seed", "below", str(2**63)]),
    ],
)
def test_mistakes_are_one_line_that_names_what_is_wrong(chosen: dict, words: list[str]):
    with pytest.raises(ConfigError) as raised:
        settings(**chosen)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 300


def test_values_are_read_as_from_the_command_line():
    made = settings(steps="1e1", temperature="0.5", top_k=3.0, seed=str(2**63 - 1))
    assert made == Settings(steps=10, temperature=0.5, top_k=3, seed=2**63 - 1)
