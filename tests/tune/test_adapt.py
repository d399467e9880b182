"""Adaptation: what a language model becomes, how it gets there, and runs that are stopped."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from decoding import small_network

from sfumato.canvas import Where
from sfumato.config import ConfigError, Recipe
from sfumato.config.tuning import AdaptConfig
from sfumato.model.annealed import Annealed
from sfumato.model.bundle import read_description
from sfumato.model.layout import Causal, Full
from sfumato.process import Masked, Noised
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.step import Step
from sfumato.tune.adapt import Annealing, prepare
from sfumato.tune.estimates import View
from sfumato.tune.methods import tune

Make = Callable[..., Recipe]
AR, LOW = {"kind": "autoregressive"}, {"kind": "masked", "levels": (0.14, 0.16)}


@pytest.mark.parametrize("block", [0, 8])
@pytest.mark.parametrize("shift", ["keep", "remove"])
def test_an_autoregressive_model_becomes_a_diffusion_model(
    shift: str, block: int, small_recipe: Make, base: Callable[..., str], tmp_path: Path
):
    wanted = small_recipe({"block": block}, init=base(process=AR), method="adapt", adapt=AdaptConfig(shift))
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None
    config = read_description(folder)[0]
    assert (config.process.kind, config.layout) == ("masked", "block" if block else "full")
    assert config.shift == (shift == "keep")
    model = LanguageModel.load(folder, "cpu")
    assert model.process.shift == config.shift
    written = model.generate("red blue", max_tokens=8, seed=1)
    assert written.stats.nfe > 0 and written.text.startswith("red blue")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["later_seen"] for record in records] == [0.0, 0.5, 1.0, 1.0]


def test_what_comes_later_is_seen_more_and_more(small_recipe: Make, base: Callable[..., str]):
    init = base(process=AR)
    step = prepare(small_recipe(init=init), Tokenizer.load(init), 4, None).step
    assert isinstance(step, Annealing) and isinstance(step.seen, Full)
    shares = []
    for _ in range(4):
        step()
        shares.append(step.seen.share if isinstance(step.seen, Annealed) else 1.0)
        assert isinstance(step.seen, Full if shares[-1] == 1 else Annealed)
    assert shares == [0.0, 0.5, 1.0, 1.0]


def test_with_its_shift_kept_it_begins_with_what_it_knows():
    """At first the token behind a clean prefix is predicted as the autoregressive model would, to the last digit."""
    network, process = small_network(), Masked(0, shift=1)
    text_BL = torch.randint(4, 24, (1, 9), generator=torch.Generator().manual_seed(1))
    where = Where(torch.arange(9)[None], None)
    causal_LV = network.readout(network.encode(text_BL, where=where, layout=Causal())[0])
    for first in range(1, 9):
        inputs_BL = torch.where(torch.arange(9) < first, text_BL, 0)
        t_BL = torch.ones(1, 9, dtype=torch.float64)
        noised = Noised(inputs_BL, text_BL, t_BL, t_BL.float(), torch.tensor([first]))
        logits_NV = View(process, Annealed(Full(), 0.0, 5)).logits(network, noised, where)
        torch.testing.assert_close(logits_NV[0], causal_LV[first - 1])


@pytest.mark.parametrize("block", [0, 8])
def test_a_masked_model_of_low_noise_learns_the_other_levels(
    block: int, small_recipe: Make, base: Callable[..., str], tmp_path: Path
):
    wanted = small_recipe({"block": block}, init=base(process=LOW), method="adapt")
    step = prepare(wanted, Tokenizer.load(wanted.init), 4, None).step
    assert type(step) is Step  # it sees everything already
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None
    config = read_description(folder)[0]
    assert (config.process.levels, config.shift) == ((0.0, 1.0), 0)


def test_other_training_keeps_the_shift(small_recipe: Make, base: Callable[..., str], tmp_path: Path):
    adapted, _ = tune(small_recipe(init=base(process=AR), method="adapt"), tmp_path / "adapted")
    again, _ = tune(small_recipe(init=str(adapted), method="text"), tmp_path / "again")
    assert again is not None and read_description(again)[0].shift == 1


@pytest.mark.parametrize("block", [0, 8])
def test_a_run_that_is_killed_anywhere_goes_on_bit_for_bit(
    block: int, small_recipe: Make, base: Callable[..., str], killed_anywhere: Callable[[Recipe], None]
):
    killed_anywhere(small_recipe({"block": block}, init=base(process=AR), method="adapt", adapt=AdaptConfig("keep")))


@pytest.mark.parametrize(
    ("given", "process", "message"),
    [
        ({"kind": "uniform"}, {}, "expected an autoregressive or masked model to adapt, it has uniform noise"),
        (AR, AR, "process.kind: got 'autoregressive', expected what the model becomes"),
        (AR, {"kind": "uniform"}, "adapt.shift: 'keep' is for masked noise, got process.kind 'uniform'; use remove"),
    ],
)
def test_what_cannot_be_adapted_is_one_line(
    given: dict, process: dict, message: str, small_recipe: Make, base: Callable[..., str], tmp_path: Path
):
    with pytest.raises(ConfigError, match=message) as caught:
        tune(small_recipe(process=process, init=base(process=given), method="adapt"), tmp_path / "run")
    assert "\n" not in str(caught.value)
