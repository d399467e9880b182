"""Checkpoints: whole or not there at all."""

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.train import checkpoint
from sfumato.train.checkpoint import CheckpointError

STATE = {"step": 3, "loss_mean": 0.1 + 0.2, "stream": {"row": 7, "corpora": ["ä"]}}


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {"weight/a": torch.full((50, 40), value), "step": torch.tensor(3.0), "half": torch.ones(3).bfloat16()}


def save(folder: Path, step: int, made: dict[str, Tensor], state: dict[str, Any], keep: int) -> Path:
    with checkpoint.writing(folder, step) as scratch:
        checkpoint.write(scratch, made, state)
    checkpoint.prune(folder, keep)
    return folder / f"step-{step:08d}"


def latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What the newest checkpoint holds, when nothing is damaged."""
    said: list[str] = []
    found = checkpoint.newest(folder, said.append)
    assert said == []
    return (checkpoint.load_tensors(found), checkpoint.read_state(found)) if found else None


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    made = tensors(1 / 3)
    path = save(tmp_path / "new" / "checkpoints", 3, made, STATE, keep=1)
    assert path.name == "step-00000003" and steps(path) == ["hashes.json", "state.json", "tensors.safetensors"]
    found = latest(path.parent)
    assert found is not None and found[1] == STATE
    assert found[0].keys() == made.keys()
    assert all(
        torch.equal(found[0][name], value) and found[0][name].dtype == value.dtype for name, value in made.items()
    )


def test_there_is_none_in_an_empty_folder(tmp_path: Path) -> None:
    assert latest(tmp_path) is None and latest(tmp_path / "none") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 100):
        save(tmp_path, step, tensors(step), {"step": step}, keep=2)
    assert steps(tmp_path) == ["step-00000010", "step-00000100"]
    found = latest(tmp_path)
    assert found is not None and found[1] == {"step": 100}


def test_saving_the_same_step_twice_never_leaves_it_missing(tmp_path: Path) -> None:
    first = save(tmp_path, 5, tensors(), STATE, keep=1)
    files = {path.name: os.stat(path).st_ino for path in first.iterdir()}
    assert save(tmp_path, 5, tensors(), STATE, keep=1) == first
    assert {path.name: os.stat(path).st_ino for path in first.iterdir()} == files  # not deleted, not even for a moment
    assert steps(tmp_path) == ["step-00000005"]


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-00000004").mkdir()
    (tmp_path / ".writing-00000004" / "tensors.safetensors").write_bytes(b"half")
    assert latest(tmp_path) is None
    save(tmp_path, 5, tensors(), STATE, keep=2)
    assert steps(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize("size", [4000, 8600])  # too small for the tensors; for the state that is written after them
def test_a_full_disk_is_one_line_and_harms_no_earlier_checkpoint(
    tmp_path: Path, disk_full: Callable[[int], AbstractContextManager[None]], size: int
) -> None:
    save(tmp_path, 1, tensors(1), {"step": 1}, keep=1)
    large = {"step": 2, "long": "x" * 9000}
    with disk_full(size), pytest.raises(OSError, match="cannot write the checkpoint .*File too large") as caught:
        save(tmp_path, 2, tensors(2), large, keep=1)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert "earlier checkpoints are intact" in str(caught.value)
    assert steps(tmp_path) == ["step-00000001"]
    found = latest(tmp_path)
    assert found is not None and found[1] == {"step": 1} and torch.equal(found[0]["weight/a"], tensors(1)["weight/a"])
    save(tmp_path, 2, tensors(2), large, keep=1)  # and once there is room again, it goes on
    assert steps(tmp_path) == ["step-00000002"]


def flip(content: bytes) -> bytes:
    """One bit of it, in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": flip,
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "gone": lambda content: None,
}


@pytest.mark.parametrize(
    "name, damage",
    [(name, damage) for name in ("tensors.safetensors", "state.json", "hashes.json") for damage in DAMAGES][:-1],
)  # without hashes.json it is one that an older version wrote
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, tensors(step), {"step": step}, keep=3)
    file, said = tmp_path / "step-00000003" / name, list[str]()
    content = DAMAGES[damage](file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)
    assert checkpoint.newest(tmp_path, said.append) == tmp_path / "step-00000002"
    assert len(said) == 1 and said[0].startswith(f"{tmp_path}/step-00000003: damaged checkpoint (")
    assert said[0].endswith("); set aside as damaged-00000003, using step-00000002") and "\n" not in said[0]
    assert steps(tmp_path) == ["damaged-00000003", "step-00000001", "step-00000002"]
    found = latest(tmp_path)  # and nothing more is said
    assert found is not None and found[1] == {"step": 2}
    save(tmp_path, 3, tensors(3), {"step": 3}, keep=1)
    assert steps(tmp_path) == ["damaged-00000003", "step-00000003"]


@pytest.mark.parametrize("count, before", [(1, "there is no other"), (2, "no earlier one is whole")])
def test_a_run_does_not_begin_anew_by_itself(tmp_path: Path, count: int, before: str) -> None:
    for step in range(count):
        path = save(tmp_path, step, tensors(), STATE, keep=9)
        (path / "tensors.safetensors").write_bytes(b"")
    for _ in range(2):  # nor at the second try
        with pytest.raises(CheckpointError, match=f"damaged checkpoint .*, and {before}; delete .* to start") as caught:
            checkpoint.newest(tmp_path, pytest.fail)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number, times, used", [(errno.ESTALE, 2, 2), (errno.EIO, 2, 2), (errno.EIO, 99, 1)])
def test_a_disk_that_fails_for_a_while_does_not_damage_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, number: int, times: int, used: int
) -> None:
    for step in (1, 2):
        save(tmp_path, step, tensors(step), {"step": step}, keep=2)
    left, digest, said = [times], checkpoint.digest, list[str]()

    def failing(file: Path) -> str:
        if file.parent.name == "step-00000002" and left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(file))
        return digest(file)

    monkeypatch.setattr(checkpoint, "digest", failing)
    assert checkpoint.newest(tmp_path, said.append) == tmp_path / f"step-{used:08d}"
    assert "trying again" in said[0] and any("set aside" in line for line in said) == (used == 1)


def test_a_disk_that_does_not_answer_says_nothing_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    def failing(file: Path) -> str:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file))

    save(tmp_path, 1, tensors(), STATE, keep=2)
    monkeypatch.setattr(checkpoint, "digest", failing)
    with pytest.raises(OSError, match="Stale file handle"):
        checkpoint.newest(tmp_path, lambda line: None)
    assert steps(tmp_path) == ["step-00000001"]


def test_checkpoints_of_older_versions_are_read(tmp_path: Path) -> None:
    """They have no hashes; what is cut short is seen all the same."""
    for step in (1, 2):
        (save(tmp_path, step, tensors(step), {"step": step}, keep=2) / "hashes.json").unlink()
    found = latest(tmp_path)
    assert found is not None and found[1] == {"step": 2}
    cut, said = tmp_path / "step-00000002" / "tensors.safetensors", list[str]()
    cut.write_bytes(cut.read_bytes()[:-1])
    assert checkpoint.newest(tmp_path, said.append) == tmp_path / "step-00000001" and len(said) == 1


def test_files_that_others_write_are_hashed_too(tmp_path: Path) -> None:
    with checkpoint.writing(tmp_path, 1) as scratch:
        for rank in range(3):
            (scratch / f"{rank}.safetensors").write_bytes(bytes(1000 + rank))
        checkpoint.write_state(scratch, {"step": 1})
    assert checkpoint.fault(tmp_path / "step-00000001") is None
    (tmp_path / "step-00000001" / "1.safetensors").write_bytes(bytes(1000))
    assert checkpoint.fault(tmp_path / "step-00000001") == "1.safetensors is not what was written"


def test_hashes_are_those_that_sha256sum_prints(tmp_path: Path) -> None:
    path = save(tmp_path, 1, tensors(), STATE, keep=1)
    hashes = json.loads((path / "hashes.json").read_text())["sha256"]
    assert hashes == {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in ("state.json", "tensors.safetensors")
    }


# Ten processes, each of which writes checkpoints until it is killed, some time after its first.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from sfumato.train import checkpoint

folder, draw, step = Path(sys.argv[1]), random.Random(int(sys.argv[2])), 0

def die(line):
    print(line, flush=True)
    os._exit(1)

for _ in range(10):
    child = os.fork()
    while child == 0:
        step += 1
        with checkpoint.writing(folder, step) as scratch:
            checkpoint.write(scratch, {"weight": torch.full((300, 300), float(step))}, {"step": step})
        checkpoint.prune(folder, 2)
    while not any(path.name > f"step-{step:08d}" for path in checkpoint.checkpoints(folder)):
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = checkpoint.newest(folder, die)
    step = checkpoint.read_state(found)["step"]
    weight = checkpoint.load_tensors(found)["weight"]
    right = found.name == f"step-{step:08d}" and bool((weight == step).all())
    right and len(checkpoint.checkpoints(folder)) <= 3 or die(found)
print(step)
"""


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and int(done.stdout) >= 10, (seed, done.stdout, done.stderr)


def test_a_state_that_lacks_something_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "step-00000004").mkdir()
    with pytest.raises(CheckpointError, match="damaged checkpoint .*stream.*; delete it to start again"):
        with checkpoint.damage_told(tmp_path / "step-00000004"):
            {}["stream"]
