"""The formulas of memory: held against tensors that are really there."""

import gc
from dataclasses import replace

import pytest
import torch

from sfumato.canvas import Where
from sfumato.compress.fits import WAYS, Sizes, Work, card_for, needed, training, use
from sfumato.config import ModelConfig, Recipe, TrainConfig
from sfumato.data.batches import Batch, Stream
from sfumato.evaluate.memory import peak_memory, weight_bytes
from sfumato.model.bundle import BundleConfig, SpecialTokens
from sfumato.model.layout import Full
from sfumato.model.transformer import Transformer
from sfumato.train.optimiser import build_optimisers
from sfumato.train.state import State
from sfumato.train.step import Step

MODEL = ModelConfig(600, width=64, layers=4, heads=4, kv_heads=2, mlp_width=160, context=64)
WORK = Work(8, 64, dtype="float32")
TOKENS = SpecialTokens(0, 1, 2, 3)


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False}, {"qkv_bias": True, "bias": True}, {"time_conditioning": True}]
)
def test_all_numbers_of_a_network_are_counted(changes: dict):
    model = replace(MODEL, **changes)
    assert Sizes.of(model).all == Transformer(model).num_parameters()
    assert use(model, WORK)["weights"] == pytest.approx(weight_bytes(Transformer(model)), rel=0.01)


class Words(Stream):
    def __init__(self):
        pass

    def rows(self, count: int, rank: int = 0, world: int = 1) -> Batch:
        tokens_BL = torch.randint(4, 600, (count, 64), generator=torch.Generator().manual_seed(0))
        position_BL = torch.arange(64).expand_as(tokens_BL)
        return Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL > 0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_step_keeps_alive_is_what_the_formulas_say(checkpointing: bool):
    """Gradients, activations and logits: the tensors that a step makes; the rest is there before and is counted."""
    train = TrainConfig(steps=9, batch=8, optimizer="adamw", ema=0.0, dtype="float32", device="cpu")
    network = Transformer(MODEL, never_written=(0, 2, 3), gradient_checkpointing=checkpointing).initialise(0)
    state = State(network, build_optimisers(network, train), {}, Words())
    recipe = Recipe(model=MODEL, train=train)
    step = Step(recipe, BundleConfig(MODEL, recipe.process, "full", 0, TOKENS, ""), state, 9)
    step()
    found = training(MODEL, WORK, average=False, checkpointing=checkpointing)
    kept = sum(v.nbytes for p in network.parameters() for o in state.optimisers for v in o.state[p].values())
    assert found["optimiser"] == pytest.approx(kept, rel=0.01)
    gc.collect()
    peak = peak_memory(step, network, torch.device("cpu"))
    assert peak is not None
    expected = sum(found.values()) - found["optimiser"]
    assert peak == pytest.approx(expected, rel=0.15)


def test_what_writing_keeps_alive_is_what_the_formulas_say():
    network = Transformer(MODEL).eval()
    tokens_BL = torch.zeros(8, 64, dtype=torch.int64)
    where = Where(torch.arange(64).expand_as(tokens_BL), tokens_BL, None)

    @torch.inference_mode()
    def run() -> None:
        network.readout(network.encode(tokens_BL, where=where, layout=Full())[:, -1])

    found = use(MODEL, WORK)
    assert peak_memory(run, network, torch.device("cpu")) == pytest.approx(
        sum(found.values()) - found["keys"], rel=0.15
    )


def test_what_saves_memory_does():
    sizes = {way: needed(MODEL, way, Work(1, 8)) for way in WAYS}
    assert sizes["write, float32"] > sizes["write, bfloat16"] > sizes["write, int8"] > sizes["write, int4"]
    assert sizes["train, AdamW"] > sizes["train, AdamW 8-bit"] > sizes["train, AdamW 8-bit, checkpointing, no average"]
    assert sizes["train, AdamW"] > sizes["LoRA of rank 16"] > sizes["LoRA of rank 16, checkpointing"]
    twice = training(MODEL, replace(WORK, block=True))["activations"]
    assert twice == 2 * training(MODEL, WORK)["activations"]


def test_the_smallest_card_with_room():
    assert [card_for(gib * 2**30) for gib in (1, 7.3, 20, 70, 79)] == [8, 24, 24, 80, None]
