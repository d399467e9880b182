"""Going back to a good checkpoint, or an end in one line."""

import contextlib
from pathlib import Path
from typing import NoReturn

from sfumato.config import TrainConfig
from sfumato.train import checkpoint
from sfumato.train.parallel import ElsewhereError
from sfumato.train.retry import Say
from sfumato.train.state import State

ADVICE = "lower train.lr and train.matrix_lr, raise train.warmup, or look at the data"


class TrainingError(ValueError):
    """A run that cannot go on by itself; one line."""


def look_after(state: State, config: TrainConfig, folder: Path, say: Say, *, closely: bool) -> None:
    """Go back to a good checkpoint if the step just made was one bad step too many.

    Processes that train together all call it, and decide the same: loss and gradient are those of the whole batch.

    Args:
        state: after the step.
        config: when that is, and what is done then.
        folder: of the checkpoints.
        say: told what was done.
        closely: look at the weights too; before they are saved or evaluated.

    Raises:
        TrainingError: there is nothing to go back to, it was done often enough, or the user wants none of it.
    """
    bad = state.spikes.bad
    if closely and not state.finite():
        _go_back(state, config, folder, say, "weights or moments that are not finite")
    elif bad >= config.spikes:
        why = f"{bad} bad steps in a row, with a loss not finite or far above its mean of {state.loss_mean:.3f}"
        if config.on_spike != "skip":
            _go_back(state, config, folder, say, why)
        elif bad == config.spikes and state.processes.first:
            say(f"step {state.step}: {why}; such steps are skipped and training goes on, as train.on_spike says")


def _go_back(state: State, config: TrainConfig, folder: Path, say: Say, why: str) -> None:
    spikes, where = state.spikes, f"step {state.step}: {why}"
    again = spikes.rollbacks - spikes.forgiven
    if config.on_spike != "rollback":
        _stop(state, f"{where}; stopped, as train.on_spike says; set it to rollback, {ADVICE}")
    if again >= config.rollbacks:
        _stop(state, f"{where}; stopped, since {again} rollbacks did not help; {ADVICE}")
    with contextlib.suppress(OSError):  # then that one is none to go back to; saving tells
        state.settle()
    steps = spikes.targets()
    found = state.processes.agreed(lambda: _whole(folder, steps, say))
    if found is None:
        _stop(state, f"{where}; stopped, since there is no good checkpoint to go back to; {ADVICE}")
    with checkpoint.damage_told(found):
        kept = state.go_back(found)
    spikes.went_back(state.step)
    if state.processes.first:
        say(f"{where}; went back to the weights of step {kept}, with the data that follows here")


def _stop(state: State, line: str) -> NoReturn:
    """The end of all processes, told by the first."""
    raise TrainingError(line) if state.processes.first else ElsewhereError("the first process tells why")


def _whole(folder: Path, steps: list[int], say: Say) -> Path | None:
    """The checkpoint of the last of these steps that has one without a fault."""
    paths = (checkpoint.path_of(folder, step) for step in reversed(steps))
    return next((path for path in paths if path.exists() and checkpoint.checked(path, say) is None), None)
