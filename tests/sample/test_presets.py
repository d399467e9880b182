"""Presets: every bundled kind of model can write with its own, and a file's are checked before anything runs."""

from pathlib import Path

import pytest
from bundles import make

from sfumato.config import ConfigError
from sfumato.sample.front import Front
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.presets import Preset, presets_for, read_presets
from sfumato.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(make(Tokenizer.train(["one two three"], 263)))


@pytest.fixture(scope="module")
def front(model: LanguageModel) -> Front:
    return model.front


@pytest.mark.parametrize("kind", ["masked", "uniform", "autoregressive"])
def test_a_model_writes_with_each_of_its_presets(kind: str) -> None:
    model = LanguageModel(make(Tokenizer.train(["one two three"], 263), kind))
    presets = presets_for(model.front, "any")
    assert next(iter(presets)) == "balanced" and presets["balanced"] == Preset("balanced", {}) and len(presets) >= 2
    for preset in presets.values():
        steps = preset.steps(12)
        options = {**preset.settings, **({"steps": steps} if steps else {})}
        assert len(model.generate("one", max_tokens=12, seed=1, **options).tokens) > 1


def test_steps_follow_from_the_pace() -> None:
    assert [Preset("x", {}, pace).steps(12) for pace in (0, 1, 5, 100)] == [None, 12, 3, 1]
    assert Preset("x", {"top_k": 3}, 2.0).told() == {"top_k": 3, "tokens_per_step": 2.0}


def file(folder: Path, text: str) -> Path:
    path = folder / "presets.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_goes_before_the_package_and_a_model_before_its_process(tmp_path: Path, front: Front) -> None:
    tables = read_presets(
        file(tmp_path, "[masked.fast]\nthreshold = 0.5\n[mine.fast]\nfactor = 2\n[mine.odd]\ntokens_per_step = 3\n")
    )
    mine, other = presets_for(front, "mine", tables), presets_for(front, "other", tables)
    assert [*mine] == ["balanced", "careful", "fast", "odd"] and [*other] == ["balanced", "careful", "fast"]
    assert mine["fast"].told() == {"factor": 2} and other["fast"].told() == {"threshold": 0.5}
    assert mine["odd"].steps(9) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x =", "presets.toml: not valid TOML"),
        ("masked = 3", r"masked: expected tables such as \[masked.fast\]"),
        ("[masked]\nfast = 3", r"masked: expected tables such as \[masked.fast\]"),
        ("[masked.fast]\nthreshhold = 1", r"\[masked.fast\]: unknown key threshhold; did you mean threshold\?"),
        ("[masked.fast]\nseed = 1", r"\[masked.fast\]: unknown key seed"),
        ("[masked.fast]\nsteps = 1", "unknown key steps"),
        ("[masked.balanced]\ntop_k = 1", "balanced is what a model does by itself"),
        ("[masked.Fast]\ntop_k = 1", "use small letters"),
        ("[masked.fast]\ntokens_per_step = 0.01", "tokens_per_step: expected a number from 0.1 to 1024"),
        ("[masked.fast]\ntokens_per_step = true", "tokens_per_step: expected a number"),
        ("[masked.fast]\nthreshold = 2", "preset fast of any: threshold: expected at most 1"),
        ('[masked.fast]\nsampler = "ddim"', "preset fast of any: sampler: 'ddim' does not make sense"),
        ('[masked.fast]\nsampler = "my.py"', "preset fast of any: sampler"),
    ],
)
def test_what_cannot_be_a_preset_is_one_line(tmp_path: Path, front: Front, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        presets_for(front, "any", read_presets(file(tmp_path, text)))
    assert "\n" not in str(caught.value)


def test_a_model_that_writes_one_token_a_step_has_no_pace(tmp_path: Path) -> None:
    twin = LanguageModel(make(Tokenizer.train(["one two three"], 263), "autoregressive")).front
    tables = read_presets(file(tmp_path, "[autoregressive.fast]\ntokens_per_step = 2"))
    with pytest.raises(ConfigError, match="preset fast of twin: tokens_per_step: this model writes one token a step"):
        presets_for(twin, "twin", tables)
