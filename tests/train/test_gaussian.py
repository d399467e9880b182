"""Training on noised embeddings: the same promises as for tokens, with self-conditioning and gradients into the noise.

Shape letters: B rows, L row length, V vocabulary, E size of an embedding.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.config import Recipe
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.denoising import denoising
from sfumato.train.loop import train
from sfumato.train.run import num_steps
from sfumato.train.step import Step

Make = Callable[..., Recipe]
MODEL = {"latent": 8, "time_conditioning": True, "tied": False, "self_conditioning": True}
PROCESS = {"kind": "gaussian", "schedule": "cosine"}


def begun(recipe: Recipe) -> Step:
    tokenizer = Tokenizer.load(recipe.tokenizer.path)
    step = denoising(recipe, tokenizer, num_steps(recipe), None).step
    assert isinstance(step, Step)
    return step


def asked(recipe: Make, model: dict | None = None, process: dict | None = None, **train: Any) -> Recipe:
    return recipe(process=PROCESS | (process or {}), model=MODEL | (model or {}), **train)


@pytest.mark.parametrize("block", [0, 8], ids=["full", "block"])
@pytest.mark.parametrize("objective", ["cross_entropy", "elbo"])
def test_a_stopped_run_continues_bit_for_bit(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Callable[[Path], dict], block: int, objective: str
) -> None:
    wanted = asked(recipe, {"block": block}, {"objective": objective}, accumulate=2, batch=4, prompts=0.5)
    train(wanted, tmp_path / "whole")
    stop = watch(lambda record: signal.raise_signal(signal.SIGTERM) if record["step"] == 5 else None)
    assert train(wanted, tmp_path / "stopped", watcher=stop) == (None, signal.SIGTERM)
    train(wanted, tmp_path / "stopped")
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_accumulation_is_the_large_batch_with_the_same_noise(recipe: Make) -> None:
    whole = begun(asked(recipe, prompts=0.5))
    parts = begun(asked(recipe, prompts=0.5, batch=2, accumulate=4))
    for _ in range(4):
        one, many = whole(), parts()
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)


def test_it_learns_and_the_embeddings_do_not_collapse(recipe: Make) -> None:
    step = begun(asked(recipe, steps=60))
    table_VE = step.state.denoiser.embed(torch.arange(step.state.denoiser.config.vocab_size)).detach()
    losses = [step()["loss"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    after_VE = step.state.denoiser.embed(torch.arange(len(table_VE))).detach()
    assert not torch.equal(after_VE, table_VE)
    torch.testing.assert_close(after_VE.norm(dim=1), torch.full((len(after_VE),), 8**0.5))
    cosine_VV = after_VE @ after_VE.mT / 8
    assert abs(float(cosine_VV.mean())) < 0.2  # in one point it would be 1


def test_a_first_pass_is_made_in_half_of_the_steps(recipe: Make) -> None:
    step, calls = begun(asked(recipe, steps=60)), []
    forward = step.forward
    step.forward = lambda network, inputs_BLE, *others: (
        calls.append(inputs_BLE.shape) or forward(network, inputs_BLE, *others)
    )  # type: ignore[method-assign]
    for _ in range(40):
        step()
    assert abs(len(calls) - 60) < 4 * 40**0.5 / 2
    assert {shape[-1] for shape in calls} == {16}


def test_without_self_conditioning_there_is_one_pass_of_latents_alone(recipe: Make) -> None:
    step, calls = begun(asked(recipe, {"self_conditioning": False})), []
    forward = step.forward
    step.forward = lambda network, inputs_BLE, *others: (
        calls.append(inputs_BLE.shape) or forward(network, inputs_BLE, *others)
    )  # type: ignore[method-assign]
    for _ in range(5):
        step()
    assert [shape[-1] for shape in calls] == [8] * 5


def test_prompts_of_random_length_stay_clean(recipe: Make) -> None:
    step, rows_B = begun(recipe(prompts=0.6)), torch.arange(4000)
    editable_BL = torch.ones(4000, 32, dtype=torch.bool)
    left_BL = step._unprompted(editable_BL, rows_B)
    begin_B = 32 - left_BL.sum(dim=1)
    assert torch.equal(left_BL, torch.arange(32) >= begin_B[:, None]) and int(begin_B.max()) < 32
    share = float((begin_B > 0).double().mean())
    assert abs(share - 0.6 * 31 / 32) < 4 * (0.24 / 4000) ** 0.5
    assert abs(float(begin_B.double().mean()) - 0.6 * 15.5) < 4 * 11 / 4000**0.5
    assert torch.equal(begun(recipe())._unprompted(editable_BL, rows_B), editable_BL)
