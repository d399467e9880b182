"""Distillation: rounds, their teachers, and runs that are stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.config import ConfigError, Recipe
from sfumato.config.tuning import DistillConfig
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.run import open_tokenizer
from sfumato.tune.distill import Distillation, prepare
from sfumato.tune.methods import tune

Make = Callable[..., Recipe]
FOUR = DistillConfig(steps=4, rounds=2)
KINDS = [
    ("sdtt", "masked", 0),
    ("sdtt", "masked", 8),
    ("consistency", "masked", 0),
    ("consistency", "masked", 8),
    ("consistency", "uniform", 0),
    ("consistency", "uniform", 8),
]


def sections(process: str, block: int) -> dict:
    return {"model": {"block": block, "time_conditioning": process == "uniform"}, "process": {"kind": process}}


@pytest.mark.parametrize(("kind", "process", "block"), KINDS)
def test_each_round_has_a_longer_step_and_the_last_student_for_a_teacher(
    kind: str, process: str, block: int, small_recipe: Make, base: Callable[..., str], tmp_path: Path
):
    init = base(**sections(process, block))
    wanted = small_recipe(**sections(process, block), init=init, distill=replace(FOUR, kind=kind))
    tokenizer = Tokenizer.load(init)
    step = prepare(wanted, tokenizer, 4, None).step
    assert isinstance(step, Distillation)
    first = Bundle.load(Path(init)).denoiser.state_dict()
    records = [step(), step()]
    assert all(torch.equal(step.teacher.state_dict()[name], first[name]) for name in first)
    after_one_round = {name: weight.clone() for name, weight in step.state.average.items()}
    records += [step(), step()]
    assert all(torch.equal(step.teacher.state_dict()[name], after_one_round[name]) for name in first)
    assert [(r["round"], r["student_steps"]) for r in records] == [(1, 2), (1, 2), (2, 1), (2, 1)]
    assert all(record["loss"] > 0 and record["skipped"] == 0 for record in records)


@pytest.mark.parametrize("kind", ["sdtt", "consistency"])
def test_a_run_that_is_killed_anywhere_goes_on_bit_for_bit(
    kind: str, small_recipe: Make, base: Callable[..., str], killed_anywhere: Callable[[Recipe], None]
):
    init, given = base(**sections("masked", 8)), replace(FOUR, kind=kind)
    killed_anywhere(small_recipe(**sections("masked", 8), init=init, method="distill", distill=given))


def test_the_student_writes_and_learns_answers_alone(small_recipe: Make, base: Callable[..., str], tmp_path: Path):
    """A model of conversations stays one; prompts are neither noised nor scored."""
    talk = tmp_path / "talk.jsonl"
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "a b"}]
    talk.write_text((json.dumps({"messages": turns}) + "\n") * 9)
    plain = small_recipe(**sections("masked", 8), init=base(**sections("masked", 8)))
    data = replace(plain.data, sources=(replace(plain.data.sources[0], path=str(talk)),), held_out=0.0)
    chat, _ = tune(replace(plain, data=data), tmp_path / "chat")
    wanted = replace(plain, data=data, init=str(chat), method="distill", distill=FOUR)
    tokenizer = open_tokenizer(wanted, tmp_path)
    step = prepare(wanted, tokenizer, 4, None).step
    assert isinstance(step, Distillation)
    batch = step.stream.rows(4)
    noised, _ = step._noised(batch, torch.arange(4), torch.ones(4, step.groups, dtype=torch.float64))
    assert torch.equal(noised.index_N, batch.editable_BL.flatten().nonzero().flatten())
    scored = set(batch.tokens_BL.flatten()[noised.index_N].tolist())
    assert scored == {*tokenizer.encode("a b"), tokenizer.end_id}
    student, _ = tune(wanted, tmp_path / "student")
    assert LanguageModel.load(student, "cpu").reply([{"role": "user", "content": "red"}], max_tokens=8).stats.nfe > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"process": {"kind": "uniform"}}, "distill.kind 'sdtt' is for masked noise, got process.kind 'uniform'"),
        (
            {"process": {"kind": "uniform"}, "distill": DistillConfig("consistency", 4, 2)},
            "process.kind: got uniform, the teacher .* has masked; describe it as it is",
        ),
        ({"model": {"block": 0}}, "model.block > 0: got False, the teacher .* has True"),
        ({"model": {"block": 16}}, "model.block: got 16, the teacher .* knows 8 to 8"),
        ({"model": {"block": 8, "layers": 2}}, "model.layers: got 2, the teacher .* has 1"),
        ({"train": {"compile": True}}, "train.compile: got true, but distillation has no fixed shapes"),
    ],
)
def test_what_cannot_be_distilled_is_one_line(
    changed: dict, message: str, small_recipe: Make, base: Callable[..., str], tmp_path: Path
):
    init = base(**sections("masked", 8))
    given = {"model": {"block": 8}, "distill": FOUR} | changed
    with pytest.raises(ConfigError, match=message) as caught:
        tune(small_recipe(**given, init=init, method="distill"), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_steps_that_cannot_be_halved_are_refused():
    with pytest.raises(ConfigError, match="got 12, which cannot be halved 3 times .* try 16"):
        DistillConfig(steps=12, rounds=3)
