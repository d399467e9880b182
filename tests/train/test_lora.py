"""Training with adapters: the base stays as it is, a run resumes bit for bit, and both kinds of bundle say the same."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sfumato.config import ConfigError, LoraConfig, Recipe
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.train.loop import train

pytest.importorskip("peft", reason="needs peft, which is not installed")

Make = Callable[..., Recipe]
LORA = LoraConfig(rank=2, alpha=8.0, merge=False)


@pytest.fixture(scope="module")
def base(recipe: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _ = train(recipe(steps=12), tmp_path_factory.mktemp("base"))
    assert folder
    return folder


@pytest.fixture(scope="module")
def adapting(recipe: Make, base: Path) -> Make:
    """A recipe of adapters of the base."""

    def make(lora: LoraConfig = LORA, **others: Any) -> Recipe:
        return replace(recipe(**{"seed": 8, "lr": 2e-2, **others}), init=str(base), lora=lora)

    return make


def difference(a: Path, b: Path) -> dict[str, float]:
    """The largest difference of each tensor of two bundles."""
    first, second = (Bundle.load(one).denoiser.state_dict() for one in (a, b))
    return {name: float((first[name] - second[name]).abs().max()) for name in first}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "checkpointing": True},
        {"model": {"block": 8}},
        {"model": {"block": 8}, "checkpointing": True},
        {"process": {"kind": "autoregressive"}, "ema": 0.0},
        {"dtype": "bfloat16"},
    ],
    ids=["full", "checkpointing", "two-streams", "two-streams-checkpointing", "autoregressive", "bfloat16"],
)
def test_only_matrices_with_adapters_change(tmp_path: Path, adapting: Make, base: Path, changes: dict) -> None:
    folder, _ = train(adapting(replace(LORA, targets=("query", "down")), steps=4, **changes), tmp_path)
    assert folder
    changed = {name for name, most in difference(folder, base).items() if most}
    assert changed == {"blocks.0.attention.query.weight", "blocks.0.down.weight"}
    kept = load_file(tmp_path / "checkpoints/step-00000004/tensors.safetensors")
    assert all("lora_" in name for name in kept if not name.startswith("optimiser/"))


def test_an_adapters_folder_is_small_and_writes_what_the_merged_model_writes(
    tmp_path: Path, adapting: Make, base: Path
) -> None:
    small, _ = train(adapting(steps=4), tmp_path / "adapter")
    whole, _ = train(adapting(replace(LORA, merge=True), steps=4), tmp_path / "merged")
    assert small and whole
    sizes = [(folder / f"{name}.safetensors").stat().st_size for folder, name in ((small, "adapter"), (whole, "model"))]
    ranks = 2 * (4 * (32 + 32) + 3 * (32 + 64)) * 2  # bytes: seven matrices, rank 2, bfloat16
    assert ranks < sizes[0] < ranks + 2000 < sizes[1]
    assert not (small / "model.safetensors").exists()
    assert max(difference(small, whole).values()) < 2**-8 * 4  # the rounding of bfloat16
    assert max(difference(small, base).values()) > 0.01
    assert "made" in (small / "config.json").read_text() and LanguageModel.load(small).generate("Tom", max_tokens=4)


def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, adapting: Make, watch: Callable, outcome: Callable[[Path], dict[str, Any]]
) -> None:
    recipe = adapting(replace(LORA, dropout=0.3))

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 7:
            signal.raise_signal(signal.SIGTERM)

    train(recipe, tmp_path / "whole")
    assert train(recipe, tmp_path / "stopped", watcher=watch(stop)) == (None, signal.SIGTERM)
    torch.manual_seed(99)
    train(recipe, tmp_path / "stopped")
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "stopped")


def test_a_run_does_not_go_on_with_another_base(tmp_path: Path, adapting: Make, base: Path, watch: Callable) -> None:
    bundle = Bundle.load(base)
    bundle.save(tmp_path / "base")
    recipe = replace(adapting(steps=4), init=str(tmp_path / "base"))

    def stop(record: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGTERM)

    assert train(recipe, tmp_path / "run", watcher=watch(stop))[0] is None
    bundle.denoiser.embedding.weight.data[5] += 1
    bundle.save(tmp_path / "base")
    with pytest.raises(ValueError, match="init: its weights have changed since this run began"):
        train(recipe, tmp_path / "run")


def test_the_best_adapter_is_kept_as_an_adapter(tmp_path: Path, adapting: Make) -> None:
    def evaluate(bundle: Bundle, corpora: list) -> dict[str, float]:
        return {"held_out_nats_per_token": 1.0 + abs(bundle.config.made["steps"] - 2)}

    folder, _ = train(adapting(steps=8, evaluate_every=1, patience=2), tmp_path, evaluate=evaluate)
    assert folder and (folder / "adapter.safetensors").exists()
    assert Bundle.load(folder).config.made["steps"] == 2


def test_who_watches_is_told_how_many_weights_learn(tmp_path: Path, adapting: Make, watch: Callable) -> None:
    told = []
    train(adapting(steps=1), tmp_path, watcher=watch(started=lambda *found: told.append(found[2])))
    assert told == [2 * (4 * (32 + 32) + 3 * (32 + 64))]


def test_adapters_of_nothing_are_refused(tmp_path: Path, adapting: Make) -> None:
    with pytest.raises(ConfigError, match="lora.rank: adapters need a model to adapt"):
        train(replace(adapting(steps=1), init=""), tmp_path)


def test_a_network_with_fewer_layers_than_its_base_has_to_be_merged(
    tmp_path: Path, adapting: Make, recipe: Make
) -> None:
    deep, _ = train(recipe(model={"layers": 2}, steps=1), tmp_path / "deep")
    thin = replace(adapting(steps=1), init=str(deep))
    with pytest.raises(ConfigError, match="lora.merge = false: an adapter needs all 2 layers"):
        train(thin, tmp_path / "kept")
    folder, _ = train(replace(thin, lora=replace(LORA, merge=True)), tmp_path / "merged")
    assert folder and Bundle.load(folder).config.model.layers == 1
