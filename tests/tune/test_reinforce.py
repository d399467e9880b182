"""Policy optimisation: advantages, the loss, and what a run does to a base that is known.

Shape letters: B answers, L row length.
"""

import itertools
import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sfumato.config import (
    ConfigError,
    DataConfig,
    LoraConfig,
    ModelConfig,
    ProcessConfig,
    Recipe,
    Source,
    TokenizerConfig,
    TrainConfig,
)
from sfumato.config.tuning import ReinforceConfig
from sfumato.evaluate.tasks.addition import Addition
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.loop import train
from sfumato.tune.methods import tune
from sfumato.tune.prompts import Listed, Problems, prompts_of
from sfumato.tune.reinforce import advantages, policy_loss, prepare

COLOURS = "red blue green black".split()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Models that answer each colour with one of the letters a, b, c and d, all equally probable."""
    folder = tmp_path_factory.mktemp("bases")
    lines = [{"prompt": f"{colour}:", "response": letter} for colour in COLOURS for letter in "abcd"]
    (folder / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Tokenizer.train([" ".join(COLOURS) + " a b c d"], 270).save(folder / "tokenizer.json")

    def of(kind: str) -> str:
        out = folder / kind
        if not (out / "model").exists():
            block = 4 if kind == "block" else 0
            recipe = Recipe(
                model=ModelConfig(width=32, layers=1, heads=2, mlp_width=32, context=16, block=block),
                process=ProcessConfig(kind="autoregressive" if kind == "autoregressive" else "masked"),
                tokenizer=TokenizerConfig(str(folder / "tokenizer.json")),
                data=DataConfig((Source(str(folder / "talk.jsonl")),), held_out=0.0, cache=str(folder / "cache")),
                train=TrainConfig(
                    steps=80, batch=8, warmup=5, optimizer="adamw", lr=1e-2, ema=0.0, dtype="float32", device="cpu"
                ),
            )
            train(recipe, out)
        return str(out / "model")

    return of


@pytest.fixture
def recipe(bases: Callable[[str], str], tmp_path: Path) -> Callable[..., Recipe]:
    """`recipe(kind, steps=3, reinforce={...})`: the letter a is rewarded."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{c}:", "response": "a"}) + "\n" for c in COLOURS))

    def of(kind: str = "full", *, reinforce: dict | None = None, **options: Any) -> Recipe:
        default = {"steps": 3, "batch": 16, "warmup": 0, "decay": 0.0, "ema": 0.0, "optimizer": "adamw", "lr": 1e-2}
        return Recipe(
            init=bases(kind),
            method="reinforce",
            data=DataConfig((Source(str(prompts)),), held_out=0.0),
            train=TrainConfig(**(default | options), dtype="float32", device="cpu"),
            reinforce=ReinforceConfig(**({"reward": ("match",), "group": 4} | (reinforce or {}))),
        )

    return of


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_advantages_are_within_a_group():
    reward_B = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(
        advantages(reward_B, 4, normalise=True), torch.tensor([1.0, -1, -1, 1, 0, 0, 0, 0]).double(), atol=1e-5, rtol=0
    )
    assert advantages(reward_B, 4, normalise=False).tolist() == [0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0]
    unnamed = torch.full((8,), 0.1, dtype=torch.float64)  # no rounding error of a mean becomes an advantage
    assert advantages(unnamed, 8, normalise=True).abs().max() < 1e-9


def test_the_gradient_at_the_start_is_the_policy_gradient():
    scored_BL = torch.tensor([[True, True, False], [True, False, False]])
    new_BL = torch.tensor([[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]], requires_grad=True)
    advantage_B = torch.tensor([2.0, -1.0])
    loss_B, clipped_B, _ = policy_loss(new_BL, new_BL.detach(), None, advantage_B, scored_BL, ReinforceConfig())
    loss_B.sum().backward()
    assert new_BL.grad is not None
    assert new_BL.grad.tolist() == [[-1, -1, 0], [1, 0, 0]] and clipped_B.tolist() == [0, 0]


def test_on_average_it_is_the_gradient_of_the_expected_reward():
    """All groups of two of three actions, each at its probability; a group's mean takes away 1 / 2 of the gradient."""
    logits_A = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    reward_A = torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64)
    (truth_A,) = torch.autograd.grad((logits_A.softmax(dim=0) * reward_A).sum(), logits_A)
    found_A = torch.zeros(3, dtype=torch.float64)
    for group in itertools.product(range(3), repeat=2):
        log_p_A = logits_A.log_softmax(dim=0)
        new_B1, scored_B1 = log_p_A[list(group)][:, None], torch.ones(2, 1, dtype=torch.bool)
        advantage_B = advantages(reward_A[list(group)], 2, normalise=False)
        loss_B, _, _ = policy_loss(new_B1, new_B1.detach(), None, advantage_B, scored_B1, ReinforceConfig())
        (slope_A,) = torch.autograd.grad(loss_B.mean(), logits_A, retain_graph=True)
        found_A -= log_p_A[list(group)].detach().sum().exp() * slope_A
    torch.testing.assert_close(found_A, truth_A / 2)


def test_a_ratio_counts_no_further_than_the_clip():
    old_BL, scored_BL = torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool)
    new_BL = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], requires_grad=True)
    advantage_B = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss_B, clipped_B, _ = policy_loss(new_BL, old_BL, None, advantage_B, scored_BL, ReinforceConfig(clip=0.2))
    loss_B.sum().backward()
    assert new_BL.grad is not None
    assert (new_BL.grad != 0).flatten().tolist() == [False, True, True, False]
    assert clipped_B.tolist() == [1, 0, 0, 1]
    assert loss_B.tolist() == pytest.approx([-1.2, math.exp(0.5), -math.exp(-0.5), 0.8])


def test_the_divergence_is_positive_and_its_gradient_leads_to_the_reference():
    new_BL = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    reference_BL, scored_BL = torch.tensor([[-2.0, -2.0]]), torch.ones(1, 2, dtype=torch.bool)
    config = ReinforceConfig(beta=0.5)
    loss_B, _, divergence_B = policy_loss(new_BL, new_BL.detach(), reference_BL, torch.zeros(1), scored_BL, config)
    loss_B.sum().backward()
    assert new_BL.grad is not None and float(divergence_B) > 0
    assert new_BL.grad[0, 0] > 0 > new_BL.grad[0, 1]


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reinforce"),
    [
        ("full", {}),
        ("full", {"estimator": "one_pass", "iterations": 2, "beta": 0.01}),
        ("block", {}),
        ("autoregressive", {"iterations": 2}),
    ],
    ids=["coupled", "one_pass", "block", "autoregressive"],
)
def test_a_run_raises_the_reward(kind: str, reinforce: dict, recipe: Callable[..., Recipe], tmp_path: Path):
    folder, _ = tune(recipe(kind, steps=24, batch=32, lr=5e-3, reinforce={"group": 8} | reinforce), tmp_path / "run")
    assert folder is not None
    rewards = [record["reward"] for record in metrics(tmp_path / "run")]
    assert sum(rewards[:2]) / 2 < 0.6 and sum(rewards[-5:]) / 5 > 0.9
    model = LanguageModel.load(folder, "cpu", "float32")
    written = model.generate([f"{colour}:" for colour in COLOURS] * 5, max_tokens=2)
    assert sum(one.completion == "a" for one in written) >= 18


def test_groups_of_equal_answers_teach_nothing(recipe: Callable[..., Recipe], tmp_path: Path):
    wanted = recipe(reinforce={"reward": ("length",), "length": 9}, optimizer="adamw", weight_decay=0.0)
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None
    for record in metrics(tmp_path / "run"):
        assert record["signal"] == 0 and record["grad_norm"] == 0 and record["loss"] == 0
    one, other = (load_file(path / "model.safetensors") for path in (folder, Path(wanted.init)))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_step_is_left_out_for_a_loss_that_says_nothing(recipe: Callable[..., Recipe]):
    """The loss is rounding: above that of 100 steps of which none had a signal, and below it, by chance."""
    wanted = recipe(steps=200)
    run = prepare(wanted, LanguageModel.load(wanted.init, "cpu").tokenizer, 200, None)
    run.state.step, run.state.loss_mean, run.state.loss_square = 120, -1e-7, 1e-14
    record = run.step()
    assert record["signal"] > 0 and record["grad_norm"] > 0 and record["skipped"] == 0


def test_micro_batches_change_nothing_but_rounding(recipe: Callable[..., Recipe], tmp_path: Path):
    tune(recipe(batch=16, steps=2), tmp_path / "one")
    tune(recipe(batch=4, accumulate=4, steps=2), tmp_path / "four")
    for one, four in zip(metrics(tmp_path / "one"), metrics(tmp_path / "four"), strict=True):
        assert one["reward"] == four["reward"] and one["grad_norm"] == pytest.approx(four["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("stop", [3, 4])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(stop: int, recipe: Callable[..., Recipe], tmp_path: Path):
    """In the middle of the steps on the same answers, and between two lots of answers."""
    wanted = recipe(steps=6, checkpoint_every=2, ema=0.9, reinforce={"iterations": 2, "beta": 0.1})
    whole, _ = tune(wanted, tmp_path / "whole")

    class Watcher:
        def started(self, *found: Any) -> None:
            pass

        def stepped(self, record: dict[str, Any]) -> None:
            if record["step"] == stop:
                signal.raise_signal(signal.SIGTERM)

    assert tune(wanted, tmp_path / "parts", watcher=Watcher()) == (None, signal.SIGTERM)
    parts, _ = tune(wanted, tmp_path / "parts")
    assert whole and parts
    one, other = (load_file(path / "model.safetensors") for path in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        assert {k: v for k, v in a.items() if k[:6] != "tokens"} == {k: v for k, v in b.items() if k[:6] != "tokens"}


def test_problems_are_never_those_that_are_held_out():
    task = Addition(3)
    problems = Problems(task, seed=0)
    first, second = problems.take(5), problems.take(5)
    assert [record["prompt"] for record in first + second] == [problem.prompt for problem in task.make(10, 0)]
    assert [record["prompt"] for record in problems.held_out(3)] == [problem.prompt for problem in task.make(3, ~0)]
    again = Problems(task, seed=0)
    again.restore(problems.state())
    assert again.take(2) == problems.take(2)


def test_prompts_of_the_data_are_held_out_by_their_text():
    records = [{"prompt": str(n)} for n in range(40)]
    prompts = Listed(records, 0.25, seed=1)
    held_out, asked = prompts.held_out(100), prompts.take(200)
    assert 3 < len(held_out) < 20
    assert {record["prompt"] for record in asked} == {r["prompt"] for r in records if r not in held_out}


def test_conversations_are_asked_up_to_their_last_answer(tmp_path: Path):
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    lines = [{"messages": [user]}, {"messages": [user, assistant]}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = DataConfig((Source(str(tmp_path / "chats.jsonl")),), held_out=0.0)
    found = prompts_of(Recipe(method="reinforce", data=data), None).take(2)
    assert all(record["messages"] == [user] for record in found)
    assert sorted(record.get("response", "") for record in found) == ["", "Hello"]


def test_a_task_and_in_place_problems_can_be_asked(recipe: Callable[..., Recipe], tmp_path: Path):
    wanted = replace(recipe("block"), data=DataConfig())
    tokenizer = LanguageModel.load(wanted.init, "cpu").tokenizer
    adding = replace(wanted, reinforce=ReinforceConfig(task="addition digits=2", reward=("addition",), group=4))
    record = prepare(adding, tokenizer, 2, None).step()
    assert record["step"] == 1 and 0 < record["length"] <= len(tokenizer.encode("030")) + 1
    long = replace(adding, reinforce=replace(adding.reinforce, task="sudoku box=2x2", reward=("sudoku",)))
    with pytest.raises(ValueError, match="too long"):
        prepare(long, tokenizer, 2, None).step()


def test_mistakes_are_one_line(recipe: Callable[..., Recipe], tmp_path: Path):
    wanted = recipe()
    asks = replace(wanted.reinforce, task="addition", reward=("addition",))
    for changed, message in (
        (replace(wanted, train=replace(wanted.train, batch=6)), "expected a multiple of reinforce.group, 4, got 6"),
        (replace(wanted, reinforce=asks), "expected one of the two"),
        (replace(wanted, data=DataConfig()), "expected one of the two"),
        (replace(wanted, reinforce=replace(wanted.reinforce, reward=("solved",))), "solved needs reinforce.task"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune(changed, tmp_path / "run")


def test_adapters_learn_it_too(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    adapted = replace(recipe(steps=7, lr=1e-2), lora=LoraConfig(rank=2, merge=False))
    folder, _ = tune(adapted, tmp_path / "run")
    assert folder and (folder / "adapter.safetensors").exists()
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(rewards[-3:]) > sum(rewards[:3])
