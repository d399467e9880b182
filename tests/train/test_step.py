"""One optimiser step: what it computes does not depend on how it is split, and a bad one is left out."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.config import Recipe
from sfumato.text.tokenizer import Tokenizer
from sfumato.train import checkpoint
from sfumato.train.denoising import denoising
from sfumato.train.run import num_steps
from sfumato.train.step import Step
from sfumato.train.update import SPIKE_AFTER

Make = Callable[..., Recipe]
PROCESSES = pytest.mark.parametrize(
    "process",
    [
        {"objective": "elbo"},
        {"objective": "count"},
        {"objective": "cross_entropy"},
        {"kind": "autoregressive"},
        {"kind": "insertion"},
    ],
    ids=["elbo", "count", "cross_entropy", "autoregressive", "insertion"],
)


def begun(recipe: Recipe) -> Step:
    """The first step of a run, without a folder."""
    tokenizer = Tokenizer.load(recipe.tokenizer.path)
    step = denoising(recipe, tokenizer, num_steps(recipe), None).step
    assert isinstance(step, Step)
    return step


def weights(step: Step) -> list[Tensor]:
    return [p.detach().clone() for p in (*step.state.denoiser.parameters(), *step.state.average.values())]


def equal(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "process",
    [
        *({"objective": name} for name in ("cart", "score_entropy", "mgdm", "flow_matching")),
        *({"kind": "uniform", "objective": name} for name in ("elbo", "cross_entropy", "flow_matching")),
        *({"kind": "hybrid", "objective": name} for name in ("elbo", "cross_entropy", "dynamic")),
        *({"kind": "insertion", "objective": name} for name in ("elbo", "cross_entropy")),
        {"kind": "uniform", "levels": (0.2, 0.7)},
    ],
    ids=lambda process: " ".join(map(str, process.values())),
)
def test_every_noise_and_objective_trains(recipe: Make, process: dict) -> None:
    step = begun(recipe(process=process, model={"time_conditioning": True}))
    before, records = weights(step), [step() for _ in range(3)]
    assert not equal(before, weights(step))
    assert all(math.isfinite(r["loss"]) and r["skipped"] == 0 for r in records)


@PROCESSES
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_is_the_large_batch_with_the_same_noise(recipe: Make, process: dict, accumulate: int) -> None:
    whole = begun(recipe(process=process))
    parts = begun(recipe(process=process, batch=8 // accumulate, accumulate=accumulate))
    for _ in range(3):
        one, many = whole(), parts()
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        assert many["tokens"] == one["tokens"]
    assert whole.state.stream.state() == parts.state.stream.state()


@PROCESSES
def test_no_scored_position_is_lost_when_the_batch_is_split(recipe: Make, process: dict) -> None:
    """The capacity of a micro-batch must do for each of them, whichever noise levels fall to it."""
    given = recipe(process=process, model={"context": 64}, accumulate=4, steps=6)
    usual, roomy = begun(given), begun(given)
    roomy.capacity = given.train.batch * given.model.context
    for _ in range(6):
        assert usual()["loss"] == pytest.approx(roomy()["loss"], rel=1e-5)


@PROCESSES
def test_all_noise_follows_from_the_seed(recipe: Make, process: dict) -> None:
    first, again, other = (begun(recipe(process=process, seed=seed)) for seed in (5, 5, 6))
    for step in (again, other):  # the same beginning, so that only noise and order differ
        step.state.denoiser.load_state_dict(first.state.denoiser.state_dict())
    losses = [[step()["loss"] for _ in range(2)] for step in (first, again, other)]
    assert losses[0] == losses[1] and losses[0] != losses[2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_gradient_that_is_no_number_is_skipped_and_training_goes_on(
    recipe: Make, value: float, optimizer: str
) -> None:
    step = begun(recipe(optimizer=optimizer))
    assert step()["skipped"] == 0
    before, moments = weights(step), [dict(o.state) for o in step.state.optimisers]
    hook = step.state.denoiser.final_norm.register_hook(lambda gradient: gradient * value)
    record = step()
    hook.remove()
    assert record["skipped"] == 1 and record["step"] == 2 and math.isfinite(record["loss"])
    assert not math.isfinite(record["grad_norm"])
    assert equal(weights(step), before)
    assert [dict(o.state) for o in step.state.optimisers] == moments
    record = step()
    assert record["skipped"] == 1 and math.isfinite(record["grad_norm"]) and not equal(weights(step), before)
    assert all(torch.isfinite(weight).all() for weight in weights(step))


def test_a_loss_that_is_no_number_is_skipped_and_training_goes_on(recipe: Make) -> None:
    step = begun(recipe())
    step()
    before, gain = weights(step), step.state.denoiser.final_norm
    kept = gain.detach().clone()
    gain.data[0] = math.nan
    record = step()
    gain.data.copy_(kept)
    assert not math.isfinite(record["loss"]) and record["skipped"] == 1
    assert equal(weights(step), before)
    assert math.isfinite(step()["loss"]) and step.state.skipped == 1


def test_a_spike_of_the_loss_is_skipped_once_the_loss_has_a_history(recipe: Make) -> None:
    step = begun(recipe(batch=4, steps=200, lr=1e-3, matrix_lr=1e-3))
    gain = step.state.denoiser.final_norm

    def spiked() -> dict:
        gain.data.mul_(50)
        record = step()
        gain.data.div_(50)
        return record

    spiked()
    assert step.state.skipped == 0  # at the beginning everything is large
    while step.state.step < SPIKE_AFTER:
        assert step()["skipped"] == 0
    before, mean = weights(step), step.state.loss_mean
    record = spiked()
    assert record["skipped"] == 1 and record["loss"] > 2 * mean and math.isfinite(record["grad_norm"])
    assert all(torch.allclose(a, b) for a, b in zip(weights(step), before, strict=True))
    assert step.state.loss_mean == mean  # a spike is no part of the history
    for _ in range(5):
        assert step()["skipped"] == 1
    assert not equal(weights(step), before)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_restored_state_is_the_state_with_its_history(tmp_path: Path, recipe: Make, optimizer: str) -> None:
    step, fresh = begun(recipe(optimizer=optimizer)), begun(recipe(optimizer=optimizer))
    for _ in range(3):
        step()
    step.state.skipped = 7
    step.state.save(tmp_path, keep=1)
    [path] = checkpoint.checkpoints(tmp_path)
    fresh.state.restore(path)
    for name in ("step", "tokens", "skipped", "loss_mean", "loss_square"):
        assert getattr(fresh.state, name) == getattr(step.state, name) > 0, name
    assert equal(weights(step), weights(fresh)) and fresh.state.stream.state() == step.state.stream.state()
    records = [made() for made in (step, fresh)]
    assert all(record.pop(name) > 0 for record in records for name in ("tokens_per_second", "flops"))
    assert records[0] == records[1]
    assert equal(weights(step), weights(fresh))


def test_a_long_gradient_is_cut_to_the_limit(recipe: Make) -> None:
    limits = (0.0, 1e-3)
    free, clipped = (begun(recipe(optimizer="adamw", clip=clip)) for clip in limits)
    records = [step() for step in (free, clipped)]
    assert records[0]["grad_norm"] == records[1]["grad_norm"] > 1e-3  # what is reported is the norm before the cut
    moments = [step.state.optimisers[0].state[step.state.denoiser.embedding.weight] for step in (free, clipped)]
    ratio = moments[1]["exp_avg"].norm() / moments[0]["exp_avg"].norm()
    assert float(ratio) == pytest.approx(1e-3 / records[0]["grad_norm"], rel=1e-3)


def test_the_average_follows_the_weights(recipe: Make) -> None:
    step = begun(recipe(ema=0.5))
    name, parameter = "embedding.weight", step.state.denoiser.embedding.weight
    expected = parameter.detach().clone()
    for number in range(4):
        step()
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * parameter.detach()
        torch.testing.assert_close(step.state.average[name], expected)
    assert begun(recipe(ema=0)).state.average == {}


def test_bfloat16_computes_about_the_same(recipe: Make) -> None:
    exact, rough = begun(recipe()), begun(recipe(dtype="bfloat16"))
    for _ in range(2):
        assert rough()["loss"] == pytest.approx(exact()["loss"], rel=0.02)
    assert rough.state.denoiser.embedding.weight.dtype == torch.float32


@pytest.mark.gpu
@PROCESSES
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_gpu_learns_in_bfloat16_what_the_cpu_learns(recipe: Make, process: dict, optimizer: str) -> None:
    settings = {"process": process, "optimizer": optimizer, "steps": 8, "checkpointing": True, "accumulate": 2}
    cpu, gpu = begun(recipe(**settings)), begun(recipe(**settings, device="cuda", dtype="bfloat16"))
    for _ in range(8):
        expected, record = cpu(), gpu()
        assert record["loss"] == pytest.approx(expected["loss"], rel=0.05) and record["skipped"] == 0
    assert gpu.state.denoiser.embedding.weight.is_cuda


def test_dropout_follows_from_the_counters_and_leaves_evaluation_alone(recipe: Make) -> None:
    dropped, plain = (begun(recipe(dropout=share, steps=3)) for share in (0.3, 0.0))
    first = [dropped()["loss"] for _ in range(3)]
    torch.manual_seed(99)  # whatever the caller does to the global generator
    again = begun(recipe(dropout=0.3, steps=3))
    assert [again()["loss"] for _ in range(3)] == first != [plain()["loss"] for _ in range(3)]
    assert equal(weights(dropped), weights(again))
