"""Healing: what is left learns what the original says, through whatever stops it."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.compress.calibration import Calibration
from sfumato.compress.heal import divergence, heal, recipe_for
from sfumato.compress.importance import importance
from sfumato.compress.prune import pruned
from sfumato.compress.shape import Shape
from sfumato.config import DataConfig, Recipe
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel


@pytest.fixture
def less(model: LanguageModel, calibration: Calibration) -> Bundle:
    return pruned(model.bundle, importance(model.denoiser, calibration), Shape(2, 2, 32))


@pytest.fixture
def recipe(less: Bundle, data: DataConfig, tmp_path: Path) -> Callable[[int], Recipe]:
    def make(steps: int) -> Recipe:
        less.save(tmp_path / "pruned")
        made = recipe_for(tmp_path / "pruned", less.config, data, steps * 16 * 32, lr=2e-3, seed=4)
        assert made.train.steps == steps
        settings = replace(made.train, device="cpu", dtype="float32", threads=1, checkpoint_every=2)
        return replace(made, train=settings)

    return make


def test_healing_brings_back_what_pruning_took(
    model: LanguageModel, less: Bundle, recipe: Callable[[int], Recipe], calibration: Calibration, tmp_path: Path
):
    folder, stopped = heal(recipe(40), model.bundle, tmp_path / "run")
    assert folder and not stopped
    healed = Bundle.load(folder)
    whole, before, after = (calibration.total(b.denoiser) for b in (model.bundle, less, healed))
    assert after - whole < 0.6 * (before - whole)
    assert healed.config.model == less.config.model and healed.config.sampler == model.bundle.config.sampler


class Stop(Exception):
    pass


class StopAfter:
    def __init__(self, step: int):
        self.step = step

    def started(self, *args) -> None:
        pass

    def stepped(self, record: dict) -> None:
        if record["step"] == self.step:
            raise Stop


def test_a_run_that_was_killed_goes_on_bit_for_bit(
    model: LanguageModel, recipe: Callable[[int], Recipe], tmp_path: Path
):
    asked = recipe(5)
    heal(asked, model.bundle, tmp_path / "whole")
    with pytest.raises(Stop):
        heal(asked, model.bundle, tmp_path / "parts", watcher=StopAfter(3))
    heal(asked, model.bundle, tmp_path / "parts")
    one, two = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()


def test_text_in_the_current_folder_goes_on_too(
    model: LanguageModel, less: Bundle, data: DataConfig, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(Path(data.sources[0].path).parent)
    less.save(tmp_path / "pruned")
    here = replace(data, sources=(replace(data.sources[0], path="data.jsonl"),))
    for watcher in (StopAfter(1), None):
        recipe = recipe_for(tmp_path / "pruned", less.config, here, 3 * 16 * 32, lr=2e-3, seed=4, device="cpu")
        assert recipe.train.device == "cpu"
        with pytest.raises(Stop) if watcher else contextlib.nullcontext():
            heal(recipe, model.bundle, tmp_path / "run", watcher=watcher)
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_the_divergence_is_that_of_kullback_and_leibler():
    p, q = torch.tensor([0.5, 0.25, 0.25, 0.0]), torch.tensor([0.25, 0.5, 0.25, 0.0])
    found = divergence(p.log()[None], q.log()[None])
    assert float(found) == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2), abs=1e-6)
    assert float(divergence(p.log()[None], 3 + p.log()[None])) == pytest.approx(0.0, abs=1e-6)
    logits = q.log()[None].clone().requires_grad_()
    divergence(p.log()[None], logits).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
