"""Checkpoints: whole or not there at all."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.train import checkpoint
from sfumato.train.checkpoint import CheckpointError

STATE = {"step": 3, "loss_mean": 0.1 + 0.2, "stream": {"row": 7, "corpora": ["ä"]}}


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {"weight/a": torch.full((50, 40), value), "step": torch.tensor(3.0), "half": torch.ones(3).bfloat16()}


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    made = tensors(1 / 3)
    path = checkpoint.save(tmp_path / "new" / "checkpoints", 3, made, STATE, keep=1)
    assert path.name == "step-00000003" and steps(path) == ["state.json", "tensors.safetensors"]
    found = checkpoint.latest(path.parent)
    assert found is not None and found[1] == STATE
    assert found[0].keys() == made.keys()
    assert all(
        torch.equal(found[0][name], value) and found[0][name].dtype == value.dtype for name, value in made.items()
    )


def test_there_is_none_in_an_empty_folder(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None and checkpoint.latest(tmp_path / "none") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 100):
        checkpoint.save(tmp_path, step, tensors(step), {"step": step}, keep=2)
    assert steps(tmp_path) == ["step-00000010", "step-00000100"]
    found = checkpoint.latest(tmp_path)
    assert found is not None and found[1] == {"step": 100}


def test_saving_the_same_step_twice_never_leaves_it_missing(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path, 5, tensors(), STATE, keep=1)
    files = {path.name: os.stat(path).st_ino for path in first.iterdir()}
    assert checkpoint.save(tmp_path, 5, tensors(), STATE, keep=1) == first
    assert {path.name: os.stat(path).st_ino for path in first.iterdir()} == files  # not deleted, not even for a moment
    assert steps(tmp_path) == ["step-00000005"]


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-00000004").mkdir()
    (tmp_path / ".writing-00000004" / "tensors.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, 5, tensors(), STATE, keep=2)
    assert steps(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize("size", [4000, 8600])  # too small for the tensors; for the state that is written after them
def test_a_full_disk_is_one_line_and_harms_no_earlier_checkpoint(
    tmp_path: Path, disk_full: Callable[[int], AbstractContextManager[None]], size: int
) -> None:
    checkpoint.save(tmp_path, 1, tensors(1), {"step": 1}, keep=1)
    large = {"step": 2, "long": "x" * 9000}
    with disk_full(size), pytest.raises(OSError, match="cannot write the checkpoint .*File too large") as caught:
        checkpoint.save(tmp_path, 2, tensors(2), large, keep=1)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert "earlier checkpoints are intact" in str(caught.value)
    assert steps(tmp_path) == ["step-00000001"]
    found = checkpoint.latest(tmp_path)
    assert found is not None and found[1] == {"step": 1} and torch.equal(found[0]["weight/a"], tensors(1)["weight/a"])
    checkpoint.save(tmp_path, 2, tensors(2), large, keep=1)  # and once there is room again, it goes on
    assert steps(tmp_path) == ["step-00000002"]


@pytest.mark.parametrize(
    "name, content", [("tensors.safetensors", b"\0" * 64), ("tensors.safetensors", None), ("state.json", b'{"step": ')]
)
def test_a_damaged_checkpoint_says_how_to_go_on(tmp_path: Path, name: str, content: bytes | None) -> None:
    for step, advice in ((1, "delete it to start again"), (2, "delete it to continue from the one before")):
        path = checkpoint.save(tmp_path, step, tensors(), STATE, keep=2) / name
        intact = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(CheckpointError, match=advice) as caught:
            checkpoint.latest(tmp_path)
        assert str(caught.value).startswith(f"{path.parent}: damaged checkpoint (") and "\n" not in str(caught.value)
        path.write_bytes(intact)


def test_a_state_that_lacks_something_is_one_line_too(tmp_path):
    (tmp_path / "step-00000004").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="damaged checkpoint .*stream.*; delete it to start again"):
        with checkpoint.damage_told(tmp_path):
            {}["stream"]
