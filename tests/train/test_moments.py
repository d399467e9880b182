"""Optimisers that remember in 8 bits: how far from 32 they are, what they cost, and that a run goes on bit for bit."""

import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.config import Recipe
from sfumato.train.loop import train
from sfumato.train.moments import BLOCK, PIECE, AdamW8bit, Memory8bit, _library, pieces
from sfumato.train.optimiser import Muon, build_optimisers

pytestmark = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao, which is not installed")
SIZES = pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@SIZES
@pytest.mark.parametrize("signed", [True, False])
def test_numbers_are_remembered_to_a_few_percent_of_themselves(count: int, signed: bool):
    values = random(count) * 10.0 ** (random(count, seed=1))
    values = values if signed else values.abs()
    memory, state = Memory8bit("x", signed=signed), {}
    memory.begin(state, values)
    assert not memory.read(state, 0, count).any()
    memory.write(state, 0, values)
    found = memory.read(state, 0, count)
    peak = state["x_scale"].repeat_interleave(BLOCK)[:count]
    assert ((found - values).abs() <= 0.06 * values.abs() + 2e-3 * peak).all()
    assert torch.equal(torch.sign(found)[values.abs() > 0.01 * peak], torch.sign(values)[values.abs() > 0.01 * peak])


def test_pieces_are_whole_blocks():
    assert PIECE % BLOCK == 0
    assert list(pieces(PIECE + 5)) == [(0, PIECE), (PIECE, PIECE + 5)]


@pytest.mark.parametrize("signed", [True, False])
def test_torchao_remembers_the_same(signed: bool):
    _library()  # so that importing torchao says nothing
    from torchao.optim.subclass_8bit import OptimState8bit

    values = random(64, BLOCK) if signed else random(64, BLOCK).abs()
    theirs, ours, memory = OptimState8bit.zeros((64, BLOCK), signed=signed), {}, Memory8bit("x", signed=signed)
    theirs.copy_(values)
    memory.begin(ours, values)
    memory.write(ours, 0, values.flatten())
    assert (theirs.codes == ours["x"]).float().mean() > 0.999  # what lies in the middle is rounded either way
    assert torch.equal(theirs.scale, ours["x_scale"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_almost_those_of_adamw(dtype: torch.dtype):
    whole, small = (nn.Parameter(random(40, 50).to(dtype)) for _ in range(2))
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimisers = torch.optim.AdamW([whole], **settings), AdamW8bit([small], **settings)
    before = whole.detach().float().clone()
    for step in range(20):
        for parameter, optimiser in zip((whole, small), optimisers, strict=True):
            parameter.grad = random(40, 50, seed=step).to(dtype) * torch.linspace(0.01, 1, 50).to(dtype)
            optimiser.step()
    moved, error = whole.detach().float() - before, (whole - small).detach().float()
    assert error.norm() < (0.1 if dtype == torch.bfloat16 else 0.05) * moved.norm()


def test_muon_with_a_small_memory_goes_almost_the_same_way():
    whole, small = (nn.Parameter(random(40, 50)) for _ in range(2))
    optimisers = Muon([whole], lr=1e-2), Muon([small], lr=1e-2, small=True)
    before = whole.detach().clone()
    for step in range(10):
        for parameter, optimiser in zip((whole, small), optimisers, strict=True):
            parameter.grad = random(40, 50, seed=step)
            optimiser.step()
    assert (whole - small).norm() < 0.1 * (whole - before).norm()


def memory_of(optimisers: list[torch.optim.Optimizer]) -> int:
    return sum(v.nbytes for o in optimisers for state in o.state.values() for v in state.values())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_memory_is_a_quarter(optimizer: str, recipe: Callable[..., Recipe]):
    from sfumato.model.transformer import Transformer

    bytes_of = {}
    for state in ("float32", "8bit"):
        asked = recipe(optimizer=optimizer, optimizer_state=state, model={"vocab_size": 300})
        network = Transformer(asked.model).initialise(0)
        optimisers = build_optimisers(network, asked.train)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimiser in optimisers:
            optimiser.step()
        bytes_of[state] = memory_of(optimisers)
    assert 0.25 < bytes_of["8bit"] / bytes_of["float32"] < 0.3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_continues_bit_for_bit(
    optimizer: str, recipe: Callable[..., Recipe], watch: Callable, outcome: Callable, tmp_path: Path
):
    asked = recipe(optimizer=optimizer, optimizer_state="8bit")
    train(asked, tmp_path / "whole")
    stop = watch(lambda record: signal.raise_signal(signal.SIGTERM) if record["step"] == 5 else None)
    assert train(asked, tmp_path / "parts", watcher=stop)[1] == signal.SIGTERM
    train(asked, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_it_learns_as_well(recipe: Callable[..., Recipe], column: Callable, tmp_path: Path):
    last = {}
    for state in ("float32", "8bit"):
        train(recipe(optimizer="adamw", optimizer_state=state, steps=30), tmp_path / state)
        losses = column(tmp_path / state, "loss")
        assert losses[-1] < 0.9 * losses[0]
        last[state] = sum(losses[-5:])
    assert last["8bit"] == pytest.approx(last["float32"], rel=0.01)


def test_states_are_plain_tensors():
    parameter = nn.Parameter(random(4, 300))
    optimiser = AdamW8bit([parameter], lr=1e-3)
    parameter.grad = random(4, 300, seed=1)
    optimiser.step()
    assert all(type(value) is Tensor for value in optimiser.state[parameter].values())  # as safetensors wants them
