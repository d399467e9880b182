"""FLOPs by formulas are those that torch counts, operation by operation, in real steps and forwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sfumato.canvas import Where
from sfumato.config import ModelConfig, Recipe
from sfumato.model.layout import Block, layout_named, visible
from sfumato.model.transformer import Transformer
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.denoising import Prepared, denoising
from sfumato.train.flops import Load, Speed, classical, flops_per_token, forward, scored_share, step_flops, training
from sfumato.train.step import Step

Make = Callable[..., Recipe]
LATENT = {"latent": 8, "tied": False, "time_conditioning": True}


def begun(recipe: Recipe) -> tuple[Prepared, Step]:
    """A run before its first step."""
    run = denoising(recipe, Tokenizer.load(recipe.tokenizer.path), 4, None)
    assert isinstance(run.step, Step)
    return run, run.step


def counting() -> FlopCounterMode:
    """Torch's counter; the attention of the CPU is one that it does not know."""

    def attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **how: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **how: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    aten = torch.ops.aten
    of_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=of_cpu)


@pytest.mark.parametrize(
    ("process", "model", "train"),
    [
        ({}, {}, {}),
        ({}, {"layers": 3, "kv_heads": 1, "head_width": 10, "tied": False}, {"accumulate": 2}),
        ({}, {"layers": 2}, {"checkpointing": True, "optimizer": "adamw"}),
        ({"kind": "autoregressive"}, {"layers": 2}, {}),
        ({}, {"layers": 2, "block": 8}, {}),
        ({"objective": "count"}, {"layers": 2, "block": 8, "smallest_block": 4}, {"checkpointing": True}),
        ({"kind": "insertion"}, {"layers": 2, "time_conditioning": True}, {}),
        ({"kind": "insertion"}, {"layers": 2}, {"checkpointing": True}),
        ({"kind": "uniform"}, {"time_conditioning": True}, {}),
        ({"kind": "gaussian", "schedule": "cosine"}, LATENT, {}),
        ({"kind": "gaussian", "schedule": "cosine", "objective": "elbo"}, LATENT, {"checkpointing": True}),
    ],
    ids=lambda part: " ".join(f"{name}={value}" for name, value in part.items()) or "-",
)
def test_the_hardware_flops_of_a_step_are_those_that_torch_counts(
    recipe: Make, process: dict, model: dict, train: dict
) -> None:
    wanted = recipe(process=process, model=model, **train)
    run, step = begun(wanted)
    with counting() as counter:
        step()
    derived = step_flops(wanted, run.config, step.process, "cpu")
    assert counter.get_total_flops() == derived.hardware
    assert derived.model < derived.hardware


def test_a_step_that_asks_itself_first_costs_a_forward_more(recipe: Make) -> None:
    wanted = recipe(
        process={"kind": "gaussian", "schedule": "cosine"}, model={**LATENT, "self_conditioning": True}, steps=4
    )
    run, step = begun(wanted)
    counted = set()
    for _ in range(4):
        with counting() as counter:
            step()
        counted.add(counter.get_total_flops())
    derived = step_flops(wanted, run.config, step.process, "cpu").hardware
    assert len(counted) == 2
    assert sum(counted) / 2 == derived  # half of the steps do


@pytest.mark.parametrize("scored", [None, 5], ids=["all", "five"])
@pytest.mark.parametrize("kv_heads", [0, 1])
def test_the_flops_of_a_forward_are_those_that_torch_counts(scored: int | None, kv_heads: int) -> None:
    model = ModelConfig(60, 32, 3, 2, kv_heads, mlp_width=48, context=16)
    network = Transformer(model)
    tokens_BL = torch.zeros(4, 16, dtype=torch.long)
    where = Where(torch.arange(16).expand(4, 16), tokens_BL)
    read_N = None if scored is None else torch.arange(scored)
    with counting() as counter, torch.no_grad():
        network.readout(network.encode(tokens_BL, where=where, layout=layout_named("full"), read_N=read_N))
    assert counter.get_total_flops() == sum(forward(model, Load(4, 16, scored=scored)).values())


def test_pairs_are_those_that_see_each_other() -> None:
    position_BQ = torch.arange(12).repeat(1, 2)
    where = Where(position_BQ, torch.zeros_like(position_BQ), position_BQ // 4, torch.arange(24)[None] >= 12)
    one = where.at((slice(None), slice(12)))
    for layout, who in ((Block(4), where), (layout_named("causal"), one), (layout_named("full"), one)):
        seen = visible(layout, who, who)
        assert seen is not None
        assert seen.sum() == Load(1, 12, layout.name).pairs(4)


def test_the_share_that_is_scored_is_the_mean_noise(recipe: Make) -> None:
    def share(**process: Any) -> float:
        return scored_share(begun(recipe(process=process))[1].process)

    assert share() == pytest.approx(0.5, abs=1e-6)
    assert share(levels=(0.3, 0.7), objective="count") == pytest.approx(0.5, abs=1e-6)
    assert share(kind="autoregressive") == 1.0


def test_the_rule_of_thumb_is_the_count_without_attention() -> None:
    model = ModelConfig(1000, 64, 4, 4, mlp_width=128, context=32, tied=False, qk_norm=False)
    network = Transformer(model)
    matrices = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2 and name != "embedding.weight")
    parts = training(model, Load(1, 32))
    assert (sum(parts.values()) - parts["attention"]) / 32 == classical(matrices, 1)
    assert flops_per_token(model) == sum(parts.values()) / 32
    assert flops_per_token(model, scored=0.5) < flops_per_token(model) < flops_per_token(model, "block")


def test_a_step_says_its_flops_and_their_share_of_the_peak(recipe: Make) -> None:
    run, step = begun(recipe(peak=2.0, accumulate=2))
    record = step()
    each = step_flops(step.recipe, run.config, step.process, "cpu").model / (16 * 32)
    assert record["flops"] == pytest.approx(record["tokens_per_second"] * each, rel=1e-3)
    assert record["mfu"] == pytest.approx(record["flops"] / 2e12, abs=1e-4)
    assert Speed(step.recipe, run.config, step.process, 4).of(1e9)["mfu"] == pytest.approx(1e9 * each / 8e12, abs=1e-4)
    assert begun(recipe())[1]()["mfu"] is None  # nobody has published what this processor can do
