"""Adapters with the methods that build networks of their own: they alone learn, and a stopped run goes on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.config import LoraConfig, Recipe
from sfumato.config.tuning import AdaptConfig, DistillConfig
from sfumato.model.bundle import Bundle
from sfumato.tune.methods import tune

pytest.importorskip("peft", reason="needs peft, which is not installed")

Make = Callable[..., Recipe]
LORA = LoraConfig(rank=2, merge=False, targets=("query", "down"))
DISTILL = DistillConfig(steps=4, rounds=2)


def changed(folder: Path, init: str) -> set[str]:
    assert (folder / "adapter.safetensors").exists()
    after, before = (Bundle.load(Path(one)).denoiser.state_dict() for one in (folder, init))
    return {name for name in after if not torch.equal(after[name], before[name])}


def test_a_student_is_an_adapter_of_its_teacher(small_recipe: Make, base: Callable[..., str], tmp_path: Path) -> None:
    init = base()
    folder, _ = tune(small_recipe(init=init, method="distill", distill=DISTILL, lora=LORA), tmp_path)
    assert folder and changed(folder, init) == {"blocks.0.attention.query.weight", "blocks.0.down.weight"}


def test_a_student_that_is_killed_anywhere_goes_on_bit_for_bit(
    small_recipe: Make, base: Callable[..., str], killed_anywhere: Callable[[Recipe], None]
) -> None:
    lora = replace(LORA, dropout=0.2, merge=True)
    killed_anywhere(small_recipe(init=base(), method="distill", distill=DISTILL, lora=lora))


def test_an_autoregressive_model_becomes_a_diffusion_model_by_an_adapter(
    small_recipe: Make, base: Callable[..., str], tmp_path: Path
) -> None:
    init = base(process={"kind": "autoregressive"})
    wanted = small_recipe(init=init, method="adapt", adapt=AdaptConfig("remove", mask="keep"), lora=LORA)
    folder, _ = tune(wanted, tmp_path)
    assert folder and changed(folder, init) == {"blocks.0.attention.query.weight", "blocks.0.down.weight"}
    config = Bundle.load(folder).config
    assert (config.process.kind, config.layout, config.shift) == ("masked", "full", 0)
