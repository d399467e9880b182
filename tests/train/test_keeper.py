"""A disk that is full costs checkpoints, not the run; where it must end, it ends in one line, the rest intact."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import Recipe, to_toml
from sfumato.train.keeper import FAILURES
from sfumato.train.loop import train

Make = Callable[..., Recipe]
Outcome = Callable[[Path], dict[str, Any]]
Limit = Callable[[int], AbstractContextManager[None]]
pytestmark = pytest.mark.usefixtures("quick")


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def full_between(disk: ExitStack, disk_full: Limit, begin: int, end: int = 0) -> Callable[[dict[str, Any]], None]:
    """No file grows beyond 20 000 bytes, less than weights need, between two steps."""

    def stepped(record: dict[str, Any]) -> None:
        if record["step"] == begin:
            disk.enter_context(disk_full(20_000))
        if record["step"] == end:
            disk.close()

    return stepped


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_nothing_else(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome, disk_full: Limit
) -> None:
    train(recipe(keep=3), tmp_path / "whole")
    said: list[str] = []
    with ExitStack() as disk:
        watcher = watch(full_between(disk, disk_full, 6, 10))
        train(recipe(keep=3), tmp_path / "full", watcher=watcher, say=said.append)
    assert checkpoints(tmp_path / "full") == ["step-00000004", "step-00000012"]
    assert outcome(tmp_path / "full") == outcome(tmp_path / "whole")
    assert [line.rpartition("; ")[2][:12] for line in said] == ["trying again"] * 3 + ["training goe"]
    assert all("cannot write the checkpoint" in line and "File too large" in line for line in said)


def test_a_disk_that_stays_full_ends_the_run_and_costs_no_earlier_checkpoint(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome, disk_full: Limit
) -> None:
    asked, said = recipe(checkpoint_every=2), list[str]()
    train(asked, tmp_path / "whole")
    with ExitStack() as disk, pytest.raises(OSError, match="cannot write the checkpoint") as caught:
        train(asked, tmp_path / "full", watcher=watch(full_between(disk, disk_full, 5)), say=said.append)
    assert "step-00000010" not in str(caught.value) and ".writing-00000010" in str(caught.value)
    assert "\n" not in str(caught.value) and "earlier checkpoints are intact" in str(caught.value)
    assert sum("training goes on" in line for line in said) == FAILURES - 1
    assert checkpoints(tmp_path / "full")[-1] == "step-00000004"
    train(asked, tmp_path / "full")
    assert outcome(tmp_path / "full") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("step, what", [(9, "checkpoint"), (12, "bundle")])
def test_what_must_be_written_at_the_end_is_or_the_run_says_why_not(
    tmp_path: Path, recipe: Make, watch: Callable, outcome: Outcome, disk_full: Limit, step: int, what: str
) -> None:
    train(recipe(), tmp_path / "whole")
    with ExitStack() as disk, pytest.raises(OSError, match=f"cannot write the {what}") as caught:
        train(recipe(), tmp_path / "full", watcher=watch(full_between(disk, disk_full, step)), say=lambda line: None)
    assert str(tmp_path / "full") in str(caught.value) and "\n" not in str(caught.value)
    train(recipe(), tmp_path / "full")
    assert outcome(tmp_path / "full") == outcome(tmp_path / "whole")


def test_a_folder_that_may_not_be_written_ends_the_run_at_once(tmp_path: Path, recipe: Make, watch: Callable) -> None:
    def blocked(record: dict[str, Any]) -> None:
        if record["step"] == 5:
            shutil.rmtree(tmp_path / "checkpoints")
            (tmp_path / "checkpoints").write_text("in the way")

    with pytest.raises(OSError, match="cannot write the checkpoint"):
        train(recipe(), tmp_path, watcher=watch(blocked), say=pytest.fail)


TINY = """
import sys
from pathlib import Path
from sfumato.config import load_recipe
from sfumato.train import retry
from sfumato.train.loop import train
retry.PAUSES = (0, 0, 0)
print(train(load_recipe(sys.argv[1]), Path(sys.argv[2]))[1])
"""


def test_room_is_made_on_a_full_disk_by_deleting_what_is_needed_least(tmp_path: Path, recipe: Make) -> None:
    """The kernel's own ENOSPC, on a disk in memory that only this process sees, with room for three checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "recipe.toml").write_text(to_toml(recipe(keep=5, checkpoint_every=3)))
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mounted = 'mount -t tmpfs -o size=1000k tmpfs "$0"; "$@"; ls "$0/checkpoints"; ls "$0/model"'
    try:
        subprocess.run([*alone, mounted.partition(";")[0], str(disk)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a file system of its own, and may not make one")
    command = [sys.executable, "-W", "error", "-c", TINY, str(tmp_path / "recipe.toml"), str(disk)]
    done = subprocess.run([*alone, mounted, str(disk), *command], capture_output=True, text=True, timeout=120)
    full, deleted = done.stderr.splitlines()
    assert ".writing-00000012" in full and "No space left on device" in full and "trying again" in full
    assert deleted == f"{disk}/checkpoints/step-00000003: deleted, since the disk is full; step-00000009 is whole"
    assert done.stdout.split()[:4] == ["0", "step-00000006", "step-00000009", "step-00000012"]
    assert "model.safetensors" in done.stdout
