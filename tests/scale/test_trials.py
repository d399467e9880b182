"""Trials are done once, go on where they were stopped, and are shared without a coordinator."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import ConfigError, Recipe
from sfumato.scale.trials import Outcome, Trial, common_tokenizer, outcome_of, part_of, run_trials
from sfumato.store.files import locked


class Told:
    """Notes what happens; ends a training after so many steps."""

    def __init__(self, stop: int = 0):
        self.stop, self.begins, self.ends, self.steps = stop, [], [], []

    def begun(self, trial: Trial) -> "Told":
        self.begins.append(trial.name)
        return self

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        self.ends.append(trial.name)

    def started(self, step: int, steps: int, *rest: Any) -> None:
        self.steps.append(step)

    def stepped(self, record: dict[str, Any]) -> None:
        if record["step"] == self.stop:
            raise KeyboardInterrupt


@pytest.fixture
def trial(recipe: Recipe, tmp_path: Path) -> Trial:
    common_tokenizer(recipe, tmp_path)
    train = replace(recipe.train, steps=25, warmup=2)
    path = str(tmp_path / "tokenizer.json")
    made = replace(recipe, name="a", train=train, tokenizer=replace(recipe.tokenizer, path=path))
    return Trial("a", made, 1e9)


def test_a_trial_that_was_interrupted_goes_on_to_the_same_result(trial: Trial, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_trials([trial], tmp_path, Told(stop=22))
    assert outcome_of(trial, tmp_path) is None
    again = Told()
    assert run_trials([trial], tmp_path, again) == 0
    assert again.steps == [20] and again.ends == ["a"]  # from the checkpoint
    once = replace(trial, name="b")
    run_trials([once], tmp_path)
    first, second = outcome_of(trial, tmp_path), outcome_of(once, tmp_path)
    assert first and second and first.nats_per_token == second.nats_per_token
    assert first.likelihood == "bound" and first.stderr > 0 and 0 < first.bits_per_byte < 8 and first.epochs > 0
    assert not (tmp_path / "trials" / "a" / "run" / "checkpoints").exists()
    third = Told()
    run_trials([trial], tmp_path, third)
    assert third.begins == []  # done is done


def test_what_another_process_trains_is_left_to_it(trial: Trial, tmp_path: Path):
    place = tmp_path / "trials" / "a"
    place.mkdir(parents=True)
    told = Told()
    with locked(place / ".lock"):
        assert run_trials([trial], tmp_path, told) == 0
    assert told.begins == [] and outcome_of(trial, tmp_path) is None


def test_another_recipe_or_a_broken_file_is_refused(trial: Trial, tmp_path: Path):
    short = replace(trial, recipe=replace(trial.recipe, train=replace(trial.recipe.train, steps=3)))
    run_trials([short], tmp_path)
    path = tmp_path / "trials" / "a" / "trial.json"
    with pytest.raises(ConfigError, match="trials/a: made with train.steps = 3, now it is 25; use the same settings"):
        outcome_of(trial, tmp_path)
    content = path.read_text()
    path.write_text(content[:20])
    with pytest.raises(ConfigError, match="trial.json: cannot be read; delete it"):
        outcome_of(short, tmp_path)
    path.write_text(json.dumps(json.loads(content) | {"more": 1}))
    with pytest.raises(ConfigError, match="unknown key more"):
        outcome_of(short, tmp_path)


def test_without_held_out_text_there_is_no_loss(trial: Trial, tmp_path: Path):
    data = replace(trial.recipe.data, held_out=0.0)
    short = replace(trial.recipe, data=data, train=replace(trial.recipe.train, steps=1))
    with pytest.raises(ConfigError, match="data.held_out: nothing is held out"):
        run_trials([replace(trial, recipe=short)], tmp_path)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_the_parts_are_the_whole_and_about_equal(parts: int, recipe: Recipe):
    trials = [Trial(str(i), recipe, flops) for i, flops in enumerate([1, 1, 3, 3, 3, 10, 10, 10, 10])]
    shares = [part_of(trials, number, parts) for number in range(1, parts + 1)]
    assert sorted(t.name for share in shares for t in share) == [str(i) for i in range(9)]
    loads = [sum(t.flops for t in share) for share in shares]
    assert max(loads) - min(loads) <= 10
    assert all([t.name for t in share] == sorted(t.name for t in share) for share in shares)
