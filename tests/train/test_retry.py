"""Trouble that passes is waited for; other trouble is not; nothing that was to be written is lost."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sfumato.train import retry
from sfumato.train.journal import Journal
from sfumato.train.retry import FULL, PASSES, STAYS, kind, retried, saying

PAUSES = retry.PAUSES
Limit = Callable[[int], AbstractContextManager[None]]
pytestmark = pytest.mark.usefixtures("quick")


def failing(times: int, number: int) -> Callable[[], str]:
    """Fails so many times, then succeeds."""
    left = [times]

    def action() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number), "/runs/a")
        return "done"

    return action


@pytest.mark.parametrize(
    "error, expected",
    [
        (OSError(errno.ENOSPC, "full"), FULL),
        (OSError(errno.EDQUOT, "quota"), FULL),
        (OSError(errno.EIO, "input/output"), PASSES),
        (OSError(errno.ESTALE, "stale handle"), PASSES),
        (BlockingIOError(errno.EAGAIN, "again"), PASSES),
        (TimeoutError("no number"), PASSES),
        (ConnectionResetError("no number"), PASSES),
        (PermissionError(errno.EACCES, "denied"), STAYS),
        (OSError(errno.EROFS, "read-only"), STAYS),
        (FileNotFoundError(errno.ENOENT, "gone"), STAYS),
        (OSError("no number"), STAYS),
    ],
    ids=str,
)
def test_only_what_may_pass_is_waited_for(error: OSError, expected: int) -> None:
    assert kind(error) == expected


def test_it_is_done_again_until_it_works_and_each_trouble_is_told() -> None:
    said: list[str] = []
    assert retried(failing(3, errno.ESTALE), saying(said.append)) == "done"
    assert [line.rpartition("; ")[2] for line in said] == [f"trying again in {pause:g} s" for pause in retry.PAUSES]
    assert all(line.startswith(f"[Errno {errno.ESTALE}]") and "/runs/a" in line for line in said)


def test_it_is_not_done_for_ever() -> None:
    said: list[str] = []
    with pytest.raises(OSError, match="Stale"):
        retried(failing(4, errno.ESTALE), saying(said.append))
    assert len(said) == 3


def test_what_stays_is_raised_at_once() -> None:
    with pytest.raises(PermissionError):
        retried(failing(1, errno.EACCES), saying(pytest.fail))


def test_the_pauses_grow_to_half_a_minute_in_all() -> None:
    assert list(PAUSES) == sorted(PAUSES) and 20 < sum(PAUSES) < 60


@pytest.mark.parametrize("number, times", [(errno.ENOSPC, 3), (errno.EIO, 0)])
def test_room_is_made_where_the_disk_is_full(number: int, times: int) -> None:
    made: list[int] = []
    assert retried(failing(3, number), lambda error, then: None, lambda: made.append(1)) == "done"
    assert len(made) == times


def test_a_journal_keeps_what_the_disk_does_not_take(tmp_path: Path, disk_full: Limit) -> None:
    said: list[str] = []
    journal = Journal(tmp_path / "a.jsonl", said.append)
    assert not (tmp_path / "a.jsonl").exists()
    journal.add("ünë\n" * 3)
    with disk_full(30):
        for number in range(10):
            journal.add(f"line {number}\n")
        assert len((tmp_path / "a.jsonl").read_bytes()) == 30  # in the middle of a line
        assert len(said) == 1 and "cannot write" in said[0] and "training goes on" in said[0]
        with pytest.raises(OSError, match="cannot write .*; checkpoints are intact"):
            journal.finish()
    journal.add("last\n")
    assert said[-1] == f"{tmp_path}/a.jsonl: can be written again, nothing is missing"
    journal.finish()
    journal.close()
    lines = ["ünë"] * 3 + [f"line {number}" for number in range(10)] + ["last"]
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines() == lines


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_recognised(tmp_path: Path) -> None:
    """The kernel's own ENOSPC."""
    (tmp_path / "samples.txt").symlink_to("/dev/full")
    said: list[str] = []
    journal = Journal(tmp_path / "samples.txt", said.append)
    journal.add("text")
    journal.close()
    assert len(said) == 1 and "No space left on device" in said[0]


def test_a_journal_in_a_place_that_is_not_there_says_so_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none" / "a.jsonl", pytest.fail)
    with pytest.raises(OSError, match="cannot write .*No such file"):
        journal.add("text")
