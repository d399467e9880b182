"""The rungs spend their budgets, keep the recipe's proportions, and are recipes that `train` takes."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from sfumato.config import ConfigError, Recipe
from sfumato.scale.ladder import KINDS, Rung, ladder, shapes
from sfumato.train.flops import classical

VOCABULARY = 300


def rungs(recipe: Recipe, **changed: Any) -> list[Rung]:
    settings: dict[str, Any] = {"kinds": KINDS, "budgets": (4e9, 16e9), "ratios": (2, 60), "sizes": 3, "seeds": (7,)}
    return ladder(recipe, VOCABULARY, **settings | changed)


def test_every_rung_spends_its_budget_to_within_two_percent(recipe: Recipe):
    found = rungs(recipe, check=(64e9,))
    assert {(r.kind, r.budget) for r in found} == {(kind, c) for kind in KINDS for c in (4e9, 16e9, 64e9)}
    for rung in found:
        assert rung.flops == pytest.approx(rung.budget, rel=0.02)
        assert rung.tokens == rung.steps * 4 * 32
        assert rung.fitted == (rung.budget < 64e9)


def test_a_group_goes_from_few_tokens_a_parameter_to_many(recipe: Recipe):
    group = sorted((r for r in rungs(recipe, kinds=("ar",), budgets=(64e9,))), key=lambda r: r.parameters)
    ratios = [rung.tokens / rung.parameters for rung in group]
    assert ratios == sorted(ratios, reverse=True)
    assert 20 < ratios[0] < 180 and 1 < ratios[-1] < 4  # as near to 60 and 2 as networks of whole heads come


def test_the_cheapest_come_first_and_the_checks_last(recipe: Recipe):
    found = rungs(recipe, check=(2e9,), ratios=(2, 20))
    assert sum(not rung.fitted for rung in found) == 3 and not any(rung.fitted for rung in found[-3:])
    assert [rung.flops for rung in found[:-3]] == sorted(rung.flops for rung in found[:-3])


def test_names_differ_and_networks_keep_the_proportions(recipe: Recipe):
    found = rungs(recipe, seeds=(0, 1))
    assert len({rung.name for rung in found}) == len(found)
    own = recipe.model
    for rung in found:
        assert rung.width == rung.heads * own.head_size
        assert rung.mlp_width == pytest.approx(rung.width * own.mlp_width / own.width, abs=8)
        assert rung.layers == max(2, round(own.layers * rung.width / own.width))


def test_a_network_is_counted_without_its_embeddings(recipe: Recipe):
    shape = next(islice(shapes(recipe, "masked", VOCABULARY), 1, None))  # width 16, two layers, MLP 32
    layer = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16 + 2 * 8
    assert (shape.parameters, shape.embeddings) == (2 * layer + 16, 300 * 16)


def test_blocks_cost_two_streams_and_masks_half_of_the_readout(recipe: Recipe):
    masked, block, ar = (next(islice(shapes(recipe, kind, VOCABULARY), 7, None)) for kind in KINDS)
    assert masked.parameters == block.parameters == ar.parameters
    assert masked.flops_per_token < ar.flops_per_token < block.flops_per_token < 2.2 * masked.flops_per_token
    readout = 6 * ar.embeddings
    assert ar.flops_per_token == pytest.approx(classical(ar.parameters, 1) + readout, rel=0.1)  # attention is little


@pytest.mark.parametrize("kind", KINDS)
def test_a_rung_is_a_recipe(kind: str, recipe: Recipe):
    rung = next(r for r in rungs(recipe, budgets=(4e9,)) if r.kind == kind)
    made = rung.recipe(recipe, "there.json")
    assert (made.seed, made.train.steps, made.tokenizer.path) == (7, rung.steps, "there.json")
    assert made.process.kind == ("autoregressive" if kind == "ar" else "masked")
    assert made.model.block == (16 if kind == "block" else 0)
    assert made.train.warmup <= rung.steps // 10 and made.data == recipe.data


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": (1e7,)}, "budget 1e.07: masked of width 8 learns for . steps of 128 tokens only, .* at least 30"),
        ({"ratios": (20, 5)}, "--ratios: expected two numbers, 0 < lowest < highest, got 20 and 5"),
        ({"check": (4e9,)}, "--check 4e.09: this budget is fitted too"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(settings: dict[str, Any], message: str, recipe: Recipe):
    with pytest.raises(ConfigError, match=message):
        rungs(recipe, **settings)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"init": "tiny"}, "init: got 'tiny', but the rungs have other sizes"),
        ({"process": {"kind": "uniform"}}, "process.kind: got 'uniform', but a ladder compares masked, block and ar"),
        ({"model": {"kv_heads": 1}}, "model.kv_heads: got 1"),
    ],
)
def test_a_recipe_that_does_not_scale_is_refused(section: dict[str, Any], message: str, recipe: Recipe):
    changed = {k: replace(getattr(recipe, k), **v) if isinstance(v, dict) else v for k, v in section.items()}
    with pytest.raises(ConfigError, match=message):
        rungs(replace(recipe, **changed))
