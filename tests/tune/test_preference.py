"""Preferences: the loss, what it scores, and what a run does.

Shape letters: P pairs.
"""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bundles import make
from safetensors.torch import load_file

from sfumato import rng
from sfumato.config import ConfigError, DataConfig, LoraConfig, ModelConfig, Recipe, Source, TrainConfig
from sfumato.config.tuning import PreferenceConfig
from sfumato.model.bundle import Bundle
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer
from sfumato.tune.methods import tune
from sfumato.tune.policy import policy_of
from sfumato.tune.preference import Margins, encoded, examples, margins, prepare

WORDS = "red blue green black white"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([f"{WORDS} yes no please 0 1 2 3 4 5 6 7 8 9 " * 4], 290)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Whatever is asked, yes is better than no."""
    file = tmp_path / "pairs.jsonl"
    lines = [
        {"prompt": f"{word} {i}:", "chosen": " yes please", "rejected": " no please"}
        for i in range(10)
        for word in WORDS.split()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def recipe(tmp_path: Path, pairs: Path, tokenizer: Tokenizer) -> Callable[..., Recipe]:
    """`recipe(kind="masked", steps=3, preference={...}, bundle={...})`: with a random model to start from."""

    def of(kind: str = "masked", *, preference: dict | None = None, bundle: dict | None = None, **train: Any) -> Recipe:
        folder = tmp_path / f"base-{kind}"
        if not folder.exists():
            made = make(tokenizer, kind, **bundle or {})
            generator = torch.Generator().manual_seed(1)
            for parameter in made.denoiser.parameters():  # else the layers add nothing
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            made.save(folder)
        options = {"steps": 3, "batch": 4, "warmup": 0, "decay": 0.0, "ema": 0.0, "optimizer": "adamw", "lr": 3e-3}
        return Recipe(
            name="small",
            init=str(folder),
            method="preference",
            data=DataConfig((Source(str(pairs)),), held_out=0.2, cache=str(tmp_path / "cache")),
            train=TrainConfig(**(options | train), dtype="float32", device="cpu"),
            preference=PreferenceConfig(**preference or {}),
        )

    return of


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_is_that_of_dpo():
    found = Margins(
        torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -2.0]), torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 0.5])
    )
    margin_P = 0.5 * torch.tensor([2.0, -2.5])
    torch.testing.assert_close(found.loss(PreferenceConfig(beta=0.5)), -torch.log(torch.sigmoid(margin_P)))
    smoothed = -0.9 * torch.log(torch.sigmoid(margin_P)) - 0.1 * torch.log(torch.sigmoid(-margin_P))
    torch.testing.assert_close(found.loss(PreferenceConfig(beta=0.5, smoothing=0.1)), smoothed)
    figures = found.figures(0.5).tolist()
    assert figures == pytest.approx([-0.25, 1, -8, -6, -1, -0.5])


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_its_gradient_is_that_of_finite_differences(kind: str, recipe: Callable[..., Recipe], tokenizer: Tokenizer):
    wanted = recipe(kind)
    policy = policy_of(wanted, tokenizer)
    policy.denoiser.double()
    policy.reference.double()
    pairs = examples(wanted, policy, None)[0][:3]
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter += 0.01

    def loss() -> torch.Tensor:
        found = margins(policy, policy.denoiser, pairs, torch.arange(3), samples=2, seed=4)
        assert found.chosen_P.dtype == torch.float64
        return found.loss(wanted.preference).sum()

    loss().backward()
    for name in ("embedding.weight", "blocks.0.attention.value.weight", "blocks.0.down.weight", "final_norm"):
        parameter = policy.denoiser.get_parameter(name)
        assert parameter.grad is not None
        place = int(parameter.grad.abs().argmax())
        slope = float(parameter.grad.flatten()[place])
        ends = []
        for shift in (1e-5, -2e-5):
            with torch.no_grad():
                parameter.view(-1)[place] += shift
                ends.append(float(loss()))
        with torch.no_grad():
            parameter.view(-1)[place] += 1e-5
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_only_answers_are_scored_behind_what_the_model_expects(recipe: Callable[..., Recipe], tokenizer: Tokenizer):
    plain = policy_of(recipe(), tokenizer)
    pair = examples(recipe(), plain, None)[0][0]
    prompt, answer = pair.chosen.tokens[: pair.chosen.prompt], pair.chosen.tokens[pair.chosen.prompt :]
    assert tokenizer.decode(prompt).endswith(":") and tokenizer.decode(answer) == " yes please"
    assert answer[-1] == tokenizer.end_id and pair.rejected.tokens[: len(prompt)] == prompt
    batch = plain.batch([pair.chosen, pair.rejected])
    assert batch.tokens_BL[0][batch.editable_BL[0]].tolist() == answer


def test_a_model_that_knows_conversations_gets_them(
    tmp_path: Path, recipe: Callable[..., Recipe], tokenizer: Tokenizer
):
    file = tmp_path / "chats.jsonl"
    turns = [("system", "Be brief."), ("user", "red?"), ("assistant", "no"), ("user", "blue?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    lines = [{"messages": messages, "chosen": "yes", "rejected": "no"}, {"prompt": "x", "chosen": "a", "rejected": "b"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = recipe(bundle={"chat": ChatTemplate().to_dict()})
    wanted = replace(wanted, data=replace(wanted.data, sources=(Source(str(file)),), held_out=0.0))
    policy = policy_of(wanted, tokenizer)
    (first, second), _, _ = examples(wanted, policy, None)
    ids = ChatTemplate().prompt(messages, tokenizer)
    assert first.chosen.tokens[: first.chosen.prompt] == ids
    assert tokenizer.decode(first.chosen.tokens[first.chosen.prompt :]) == "yes"
    assert second.rejected.tokens[0] == tokenizer.roles["user"]


def test_what_is_too_long_keeps_the_end_of_its_prompt(recipe: Callable[..., Recipe], tokenizer: Tokenizer):
    from sfumato.data.preferences import Preference

    policy = policy_of(recipe(), tokenizer)
    chosen, rejected = encoded(Preference("red " * 200 + "blue:", " yes", " no" * 300), policy)
    context = policy.config.model.context
    assert len(chosen.tokens) == context - 1 and tokenizer.decode(chosen.tokens).endswith("red blue: yes")
    assert rejected.prompt == 0 and len(rejected.tokens) == context - 1


@pytest.mark.parametrize("kind", ["masked", "uniform", "autoregressive"])
def test_a_run_prefers_what_was_chosen(kind: str, recipe: Callable[..., Recipe], tmp_path: Path):
    wanted = recipe(kind, steps=25, batch=8, preference={"beta": 0.5})
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None
    first, last = metrics(tmp_path / "run")[0], metrics(tmp_path / "run")[-1]
    assert abs(first["margin"]) < 1e-5 and first["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert last["held_out_margin"] > 0.5 and last["held_out_accuracy"] > 0.9
    assert last["held_out_chosen_change"] > last["held_out_rejected_change"] + 1
    kept, base = Bundle.load(folder).config, Bundle.load(Path(wanted.init)).config
    assert replace(kept, made={}) == replace(base, made={})


def test_weights_and_the_chosen_answers_own_loss(recipe: Callable[..., Recipe], pairs: Path, tokenizer: Tokenizer):
    records = [json.loads(line) for line in pairs.read_text().splitlines()]
    for i, record in enumerate(records):
        record["weight"] = 3 if i % 2 else 1e-9
    pairs.write_text("".join(json.dumps(record) + "\n" for record in records))
    wanted = recipe(preference={"nll": 0.5})
    run = prepare(wanted, tokenizer, 3, None)
    step: Any = run.step
    chosen = [step.pairs[i] for i in run.state.stream.take(4)]  # type: ignore[attr-defined]
    run.state.stream.taken = 0  # type: ignore[attr-defined]
    seed = int(rng.mix(wanted.seed, 0, 52))
    with torch.no_grad():
        found = margins(step.policy, step.policy.denoiser, chosen, torch.arange(4), samples=4, seed=seed)
        length_P = torch.tensor([len(pair.chosen.tokens) - pair.chosen.prompt for pair in chosen])
        loss_P = found.loss(wanted.preference) - 0.5 * found.chosen_P / length_P
        weight_P = torch.tensor([pair.weight for pair in chosen])
    assert step()["loss"] == pytest.approx(float((loss_P * weight_P).sum() / weight_P.sum()), rel=1e-5)


def test_micro_batches_change_nothing_but_rounding(recipe: Callable[..., Recipe], tmp_path: Path):
    tune(recipe(batch=8), tmp_path / "one")
    tune(recipe(batch=2, accumulate=4), tmp_path / "four")
    for one, four in zip(metrics(tmp_path / "one"), metrics(tmp_path / "four"), strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-4)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(recipe: Callable[..., Recipe], tmp_path: Path):
    wanted = recipe(steps=6, checkpoint_every=2, evaluate_every=2, ema=0.9)
    whole, _ = tune(wanted, tmp_path / "whole")

    class Watcher:
        def started(self, *found: Any) -> None:
            pass

        def stepped(self, record: dict[str, Any]) -> None:
            if record["step"] == 3:
                signal.raise_signal(signal.SIGTERM)

    assert tune(wanted, tmp_path / "parts", watcher=Watcher()) == (None, signal.SIGTERM)
    parts, _ = tune(wanted, tmp_path / "parts")
    assert whole and parts
    one, other = (load_file(path / "model.safetensors") for path in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    dropped = {"tokens_per_second"}
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        assert {k: v for k, v in a.items() if k not in dropped} == {k: v for k, v in b.items() if k not in dropped}


def test_mistakes_are_one_line(recipe: Callable[..., Recipe], pairs: Path, tmp_path: Path):
    wanted = recipe()
    for changed, message in (
        (replace(wanted, model=ModelConfig(width=64)), "preference changes nothing but weights"),
        (replace(wanted, train=replace(wanted.train, dropout=0.1)), "train.dropout: got 0.1"),
        (replace(wanted, train=replace(wanted.train, patience=1, evaluate_every=1)), "train.patience: preference has"),
        (replace(wanted, init=""), "init: expected the model to tune"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune(changed, tmp_path / "run")
    pairs.write_text('{"prompt": "x", "chosen": "a"}\n')
    with pytest.raises(ValueError, match="pairs.jsonl:1: no field 'rejected'; it has prompt, chosen"):
        tune(wanted, tmp_path / "run")
    pairs.write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(ValueError, match="expected at least two prompts"):
        tune(wanted, tmp_path / "run")
    chat = {"messages": [{"role": "user", "content": "x"}], "chosen": "a", "rejected": "b"}
    pairs.write_text(json.dumps(chat) + "\n")
    with pytest.raises(ValueError, match="the model knows no conversations"):
        tune(wanted, tmp_path / "run")


def test_adapters_learn_it_too_and_are_all_that_is_kept(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    adapted = replace(recipe(steps=12, lr=2e-2), lora=LoraConfig(rank=2, merge=False))
    folder, _ = tune(adapted, tmp_path / "run")
    assert folder and (folder / "adapter.safetensors").exists()
    found = metrics(tmp_path / "run")
    assert found[0]["margin"] == 0 < found[-1]["margin"]
    before, after = (Bundle.load(Path(one)).denoiser.state_dict() for one in (adapted.init, folder))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "norm" in name or "embedding" in name}
    with pytest.raises(ConfigError, match="lora.dropout: got 0.1"):
        tune(replace(adapted, lora=LoraConfig(rank=2, dropout=0.1)), tmp_path / "other")
