"""A plan's figures are those of real networks and real files, and its parts add up."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.compress.fits import Sizes, Work, training
from sfumato.config import ConfigError, ModelConfig, Recipe, TrainConfig
from sfumato.data.batches import Batch, Stream
from sfumato.model.bundle import BundleConfig, SpecialTokens, without_weights
from sfumato.model.transformer import Transformer
from sfumato.plan.cluster import Cluster, Share
from sfumato.plan.memory import checkpoint_bytes, per_device
from sfumato.plan.run import Assumed, RunPlan, plan_run, smallest, widest
from sfumato.plan.shapes import SHAPES
from sfumato.process import build_process
from sfumato.train.devices import DEVICES, device_called
from sfumato.train.optimiser import build_optimisers
from sfumato.train.state import State
from sfumato.train.step import Step

H100 = DEVICES[0]
SMALL = ModelConfig(512, 64, 2, 4, mlp_width=160, context=16)
TRAIN = TrainConfig(steps=10, batch=4, accumulate=8, device="cpu", dtype="float32")


class Zeros(Stream):
    """Rows of one word."""

    def __init__(self) -> None:
        pass

    def rows(self, count: int, rank: int = 0, world: int = 1) -> Batch:
        tokens_BL = torch.full((count, SMALL.context), 5)
        position_BL = torch.arange(SMALL.context).expand_as(tokens_BL)
        return Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL > 0)

    def state(self) -> dict:
        return {}


def planned(recipe: Recipe, devices: int = 1, network: float = 50e9) -> RunPlan:
    process = build_process(recipe.process, vocab_size=recipe.model.vocab_size, mask_id=0, never_written=(0,), shift=0)
    return plan_run(recipe, recipe.model, process, Cluster(H100, devices, network=network), Assumed())


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_network(name: str) -> None:
    model = SHAPES[name].model
    with without_weights():
        network = Transformer(model)
    found = planned(SHAPES[name]).parameters
    assert found == sum(parameter.numel() for parameter in network.parameters())
    assert found == pytest.approx(float(name.removesuffix("B")) * 1e9, rel=0.11)


@pytest.mark.parametrize("train", [{}, {"optimizer": "adamw"}, {"ema": 0.0}], ids=str)
def test_a_checkpoint_is_as_large_as_it_is_planned(train: dict, tmp_path: Path) -> None:
    recipe = Recipe(model=SMALL, train=replace(TRAIN, batch=1, accumulate=1, **train))
    network = Transformer(SMALL, never_written=(0, 2, 3)).initialise(0)
    state = State(network, build_optimisers(network, recipe.train), {}, Zeros())
    if recipe.train.ema:
        state.average = {name: weight.detach().clone() for name, weight in state.learned.items()}
    tokens = SpecialTokens(0, 1, 2, 3)
    Step(recipe, BundleConfig(SMALL, recipe.process, "full", 0, tokens, ""), state, 1)()
    state.save(tmp_path, 1)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    header = 120 * len(list(network.parameters())) * 5  # names and places of the tensors
    assert checkpoint_bytes(recipe, SMALL) <= size <= checkpoint_bytes(recipe, SMALL) + header


def test_one_process_needs_what_the_formulas_of_one_device_say() -> None:
    recipe = Recipe(model=SMALL, train=TRAIN)
    alone = per_device(recipe, SMALL, Share(1, 1, 4, 8), "float32")
    assert alone == training(SMALL, Work(4, SMALL.context, dtype="float32"), optimizer="muon")


def test_what_is_shared_is_divided_and_the_rest_is_each_ones_own() -> None:
    recipe = Recipe(model=SMALL, train=TRAIN)
    alone, among = (per_device(recipe, SMALL, Share(n, n, 4, 8 // n), "float32") for n in (1, 4))
    for name in ("weights", "gradients", "optimiser", "average"):
        assert among[name] == alone[name] / 4
    assert among["activations"] == alone["activations"] and among["gathered"] > 0
    copied = per_device(recipe, SMALL, Share(4, 1, 4, 2), "float32")
    assert copied == alone  # DDP's buckets are where the gradients lie


def test_rows_are_divided_as_training_divides_them() -> None:
    assert Share.of(TRAIN, 4) == Share(4, 4, 4, 2)
    assert Share.of(replace(TRAIN, shard=8), 32) == Share(32, 8, 1, 1)
    assert Share.of(replace(TRAIN, shard=1), 16).replicas == 16
    with pytest.raises(ConfigError, match="3 processes"):
        Share.of(TRAIN, 3)
    with pytest.raises(ConfigError, match="shard"):
        Share.of(replace(TRAIN, shard=3), 4)


def test_time_is_work_over_speed() -> None:
    recipe = SHAPES["8B"]
    one, many = planned(recipe, 8), planned(recipe, 64)
    assert one.flops == many.flops == one.flops_per_token * one.tokens
    assert one.compute_seconds == pytest.approx(8 * many.compute_seconds)
    assert one.compute_seconds == pytest.approx(one.flops_per_token * one.tokens_per_step / 8 / (0.4 * H100.flops))
    assert one.tokens == 80 * one.parameters and one.steps == -(-int(one.tokens) // one.tokens_per_step)
    assert one.flops == pytest.approx(one.classical, rel=0.1)
    assert many.bare <= many.hidden <= 1
    slow, fast = planned(recipe, 64, network=12.5e9), planned(recipe, 64, network=400e9)
    assert slow.hidden < many.hidden < fast.hidden and slow.seconds > fast.seconds


def test_a_recipe_says_how_long() -> None:
    recipe = Recipe(model=SMALL, train=TRAIN)
    assert planned(recipe).steps == 10 and planned(recipe).tokens == 10 * 32 * 16
    for_tokens = replace(recipe, train=replace(TRAIN, steps=0, tokens=1000))
    assert planned(for_tokens).tokens == 1000 and planned(for_tokens).steps == 2


def test_the_fewest_devices_have_room_and_half_of_them_have_not() -> None:
    recipe = SHAPES["8B"]
    count = smallest(recipe, recipe.model, Cluster(H100, 1), "bfloat16")
    assert planned(recipe, count).fits and not planned(recipe, count // 2).fits
    copied = replace(recipe, train=replace(recipe.train, shard=1))
    with pytest.raises(ConfigError, match="no number of h100"):
        smallest(copied, recipe.model, Cluster(H100, 1), "bfloat16")


def test_wider_forwards_do_the_same_step_and_send_less() -> None:
    recipe, where = SHAPES["8B"], Cluster(H100, 64)
    rows = widest(recipe, recipe.model, where, Share.of(recipe.train, 64), "bfloat16")
    assert rows > recipe.train.batch
    times = rows // recipe.train.batch
    wider = replace(recipe, train=replace(recipe.train, batch=rows, accumulate=recipe.train.accumulate // times))
    now, then = planned(recipe, 64), planned(wider, 64)
    assert then.fits and then.tokens_per_step == now.tokens_per_step
    assert sum(then.sent.values()) == pytest.approx(sum(now.sent.values()) / times)


def test_names_of_devices() -> None:
    def called(name: str) -> str | None:
        found = device_called(name)
        return found.name if found else None

    assert called("H100") == called("NVIDIA H100 80GB HBM3") == "h100"
    assert called("NVIDIA H100 PCIe") == "h100-pcie"
    for other in (
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "Tesla V100-SXM2-16GB",
        "",
    ):
        assert called(other) is None
    assert len({one.name for one in DEVICES}) == len(DEVICES)
    assert Sizes.of(SMALL).all == planned(Recipe(model=SMALL, train=TRAIN)).parameters
