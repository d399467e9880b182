"""After too many bad steps a run goes back, and goes on with other data; stopped anywhere, it decides the same."""

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import together
from spiking import prepared, spiked
from torch import Tensor

from sfumato.config import Recipe
from sfumato.train import checkpoint
from sfumato.train.denoising import Prepared
from sfumato.train.loop import train
from sfumato.train.rollback import TrainingError
from sfumato.train.spikes import Spikes
from sfumato.train.watchdog import LONGER, Watchdog

Make = Callable[..., Recipe]
Outcome = Callable[[Path], dict[str, Any]]
Column = Callable[[Path, str], list[Any]]


def tensors(run: Path, step: int) -> dict[str, Tensor]:
    found = checkpoint.load_tensors(checkpoint.path_of(run / "checkpoints", step))
    return {name: value for name, value in found.items() if not name.endswith("/step")}


# --- what is remembered -----------------------------------------------------------------------------------------------


def saved(spikes: Spikes, *steps: int, every: int = 10, keep: int = 2) -> list[int]:
    for step in steps:
        spikes.saving(step, every, keep)
    return spikes.good


def test_good_are_the_newest_checkpoints_from_before_the_bad_steps() -> None:
    spikes = Spikes()
    assert saved(spikes, 10, 20, 30) == [20, 30]
    spikes.bad = 1
    assert saved(spikes, 40) == [20, 30]


def test_after_a_rollback_a_checkpoint_is_good_when_all_went_well_for_long_enough() -> None:
    spikes = Spikes()
    saved(spikes, 10, 20)
    spikes.bad = 3
    assert spikes.targets() == [10, 20]
    spikes.went_back(27)
    assert spikes.bad == 0 and saved(spikes, 30) == [10, 20]  # three steps say little
    assert saved(spikes, 40) == [20, 40] and spikes.rollbacks == spikes.forgiven == 1


def test_where_going_back_did_not_help_the_checkpoint_before_is_taken_as_long_as_there_is_one() -> None:
    spikes, seen = Spikes(), []
    saved(spikes, 10, 20, 30, keep=3)
    for step in (31, 33, 35, 37):
        seen.append(spikes.targets()[-1])
        spikes.went_back(step)
    assert seen == [30, 20, 10, 10] and spikes.rollbacks - spikes.forgiven == 4


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_run_goes_back_to_the_weights_before_and_on_with_the_data_after(
    tmp_path: Path, recipe: Make, column: Column
) -> None:
    seen: dict[int, dict[str, Tensor]] = {}
    rows: dict[int, int] = {}

    def note(run: Prepared) -> None:
        seen[run.state.step] = {name: p.detach().clone() for name, p in run.state.learned.items()}
        rows[run.state.step] = run.state.stream.state()["row"]

    asked, said = recipe(steps=16, spikes=3, keep=9), list[str]()
    train(asked, tmp_path / "run", prepare=prepared({10, 11, 12}, act=note), say=said.append)
    assert len(said) == 1 and "went back to the weights of step 8" in said[0]
    assert said[0].startswith("step 12: 3 bad steps in a row, with a loss not finite or far above its mean of ")
    before, after = tensors(tmp_path / "run", 8), tensors(tmp_path / "run", 12)
    assert all(torch.equal(after[name], value) for name, value in before.items())  # moments and averages too
    assert any(not torch.equal(seen[9][name], value) for name, value in seen[8].items())
    assert any(not torch.equal(seen[13][name], value) for name, value in seen[8].items())
    assert [rows[step] for step in (8, 12, 13, 16)] == [8 * 8, 12 * 8, 13 * 8, 16 * 8]  # of the rows none comes twice
    assert column(tmp_path / "run", "step") == list(range(1, 17))
    assert column(tmp_path / "run", "rollbacks") == [0] * 11 + [1] * 5
    assert column(tmp_path / "run", "skipped") == [0] * 9 + [1, 2, 3] + [3] * 4
    assert column(tmp_path / "run", "loss")[8:13].count(None) == 3
    kept = json.loads((tmp_path / "run/checkpoints/step-00000016/state.json").read_text())["spikes"]
    assert kept == {"bad": 0, "rollbacks": 1, "forgiven": 1, "last": 12, "good": [4, 8, 16]}


class Killed(Exception):
    """In place of `kill -9`: nothing is saved."""


@pytest.mark.parametrize("step", [7, 10, 12, 13])  # before the bad steps, among them, at the rollback, after it
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_run_that_is_interrupted_goes_back_to_the_same_weights(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome, column: Column, step: int, kill: bool
) -> None:
    asked, bad = recipe(steps=16, spikes=3, keep=1), {10, 11, 12}

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == step and kill:
            raise Killed
        if record["step"] == step:
            signal.raise_signal(signal.SIGTERM)

    said: list[str] = []
    train(asked, tmp_path / "whole", prepare=prepared(bad), say=said.append)
    try:
        assert not kill
        train(asked, tmp_path / "run", prepare=prepared(bad), watcher=watch(stop), say=said.append)
    except (Killed, AssertionError):
        with pytest.raises(Killed):
            train(asked, tmp_path / "run", prepare=prepared(bad), watcher=watch(stop), say=said.append)
    train(asked, tmp_path / "run", prepare=prepared(bad), say=said.append)
    assert set(said) == {said[0]} and outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert column(tmp_path / "run", "rollbacks") == column(tmp_path / "whole", "rollbacks")


def test_a_run_whose_loss_explodes_again_goes_further_back_and_at_last_stops(
    tmp_path: Path, recipe: Make, column: Column
) -> None:
    asked, said = recipe(steps=40, spikes=2, rollbacks=2), list[str]()
    always = {10, 11, 13, 14, 15, 16}
    with pytest.raises(TrainingError, match="^step 16: 2 bad steps .*; stopped, since 2 rollbacks did not help; lower"):
        train(asked, tmp_path, prepare=prepared(always), say=said.append)
    assert [line.partition("step ")[2].partition(",")[0].split()[0] for line in said] == ["11:", "14:"]
    assert ["of step 8," in said[0], "of step 4," in said[1]] == [True, True]
    assert column(tmp_path, "step")[-1] == 15
    more = replace(asked, train=replace(asked.train, rollbacks=3))  # by the user, who has thought about it
    assert train(more, tmp_path, prepare=prepared(always), say=said.append)[1] == 0
    assert column(tmp_path, "step") == list(range(1, 41)) and column(tmp_path, "rollbacks")[-1] == 3


def test_a_run_that_was_never_good_stops(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(TrainingError, match="^step 3: 3 bad steps .*; stopped, since there is no good checkpoint"):
        train(recipe(spikes=3), tmp_path, prepare=prepared(range(1, 99)), say=pytest.fail)


def test_stop_stops_and_says_how_to_go_on(tmp_path: Path, recipe: Make, column: Column) -> None:
    asked = recipe(on_spike="stop", spikes=2)
    with pytest.raises(TrainingError, match="^step 7: .*stopped, as train.on_spike says; set it to rollback, ") as told:
        train(asked, tmp_path, prepare=prepared({6, 7}), say=pytest.fail)
    assert "\n" not in str(told.value)
    goes_on = replace(asked, train=replace(asked.train, on_spike="rollback"))
    assert train(goes_on, tmp_path, prepare=prepared({6, 7}), say=lambda line: None)[1] == 0
    assert column(tmp_path, "rollbacks") == [0] * 6 + [1] * 6


def test_skip_goes_on_for_ever_and_says_so_once(tmp_path: Path, recipe: Make, column: Column) -> None:
    said: list[str] = []
    bad = range(3, 99)
    assert train(recipe(on_spike="skip", spikes=2), tmp_path, prepare=prepared(bad), say=said.append)[1] == 0
    assert len(said) == 1 and said[0].startswith("step 4: 2 bad steps") and "train.on_spike" in said[0]
    assert column(tmp_path, "skipped")[-1] == 10 and column(tmp_path, "rollbacks")[-1] == 0


def test_few_bad_steps_are_only_skipped(tmp_path: Path, recipe: Make) -> None:
    train(recipe(spikes=3), tmp_path, prepare=prepared({2, 3, 5, 8, 9, 12}), say=pytest.fail)


def test_going_back_may_take_longer_than_a_step(
    tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    fed: list[float] = []
    monkeypatch.setattr(Watchdog, "fed", lambda self, times: fed.append(times))
    train(recipe(steps=8, checkpoint_every=3, spikes=2), tmp_path, prepare=prepared({4, 5}), say=lambda line: None)
    assert column(tmp_path, "rollbacks") == [0] * 4 + [1] * 4
    # The first step; the third and what follows it, where a checkpoint is written; the fifth, once it has gone wrong.
    assert fed == [LONGER, 1, LONGER, LONGER, 1, LONGER, LONGER, LONGER, LONGER]


def test_processes_that_train_together_go_back_together(tmp_path: Path, recipe: Make, column: Column) -> None:
    asked = {shard: recipe(steps=14, spikes=2, shard=shard) for shard in (1, 0)}
    assert "went back to the weights of step 8" in spiked({10, 11}, (asked[1], tmp_path / "alone"))[0]
    runs = [(one, tmp_path / str(shard)) for shard, one in asked.items()]
    said = together(2, spiked, {10, 11}, *runs)
    assert [len(lines) for lines in said] == [2, 0]  # a line for each run, told by the first
    for _, out in runs:
        assert column(out, "rollbacks") == [0] * 10 + [1] * 4
        for name in ("loss", "grad_norm"):
            found, expected = (column(run, name) for run in (out, tmp_path / "alone"))
            assert [value is None for value in found] == [value is None for value in expected]
            numbers = [[value for value in values if value is not None] for values in (found, expected)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-5)


# --- weights that are no numbers --------------------------------------------------------------------------------------


def spoiled(step: int, what: str) -> Callable[[Prepared], None]:
    """A number of the weights, or of the moments, becomes none after that step; once."""
    done: list[int] = []

    def act(run: Prepared) -> None:
        if run.state.step == step and not done:
            done.append(step)
            weight = next(iter(run.state.learned.values()))
            spoil = weight if what == "weights" else run.state.optimisers[-1].state[weight]["exp_avg_sq"]
            with torch.no_grad():
                spoil.view(-1)[3] = math.inf

    return act


@pytest.mark.parametrize("what", ["weights", "moments"])
def test_a_checkpoint_with_what_is_no_number_is_never_written(
    tmp_path: Path, recipe: Make, column: Column, what: str
) -> None:
    said: list[str] = []
    asked = recipe(keep=9, optimizer="adamw")
    train(asked, tmp_path, prepare=prepared((), act=spoiled(8, what)), say=said.append)
    assert said == [
        "step 8: weights or moments that are not finite; went back to the weights of step 4, with the data that "
        "follows here"
    ]
    for step in (4, 8, 12):
        assert all(value.isfinite().all() for value in tensors(tmp_path, step).values())
    assert column(tmp_path, "rollbacks") == [0] * 7 + [1] * 5


def test_a_run_that_is_stopped_with_what_is_no_number_keeps_its_last_checkpoint(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome
) -> None:
    stop = watch(lambda record: signal.raise_signal(signal.SIGTERM) if record["step"] == 6 else None)
    said: list[str] = []
    prepare = prepared((), act=spoiled(6, "weights"))
    assert train(recipe(), tmp_path / "run", prepare=prepare, watcher=stop, say=said.append)[1] == signal.SIGTERM
    assert said == ["step 6: not saved, weights or moments are not finite"]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    train(recipe(), tmp_path / "run", say=pytest.fail)  # they were no part of what the run computes
    train(recipe(), tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
