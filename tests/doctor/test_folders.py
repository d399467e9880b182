import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sfumato.doctor.finding import MIB
from sfumato.doctor.folders import bandwidth, existing, folder


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path):
    (finding,) = folder("runs", str(tmp_path / "a" / "b"))
    assert finding.verdict in ("ok", "warn") and "not there yet" in finding.found
    assert finding.figures["write"] > 0 and list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_fails(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (finding,) = folder("runs", str(tmp_path / "file" / "b"))
    assert finding.verdict == "fail" and "is a file" in finding.found


@pytest.mark.skipif(not Path("/proc/self").exists() or os.name != "posix", reason="needs Linux")
def test_a_folder_that_nobody_may_write_to_fails():
    (finding,) = folder("runs", "/proc/self")
    assert finding.verdict == "fail" and "name another folder" in finding.advice


def test_what_ends_before_the_disk_does_is_told(
    tmp_path: Path, disk_full: Callable[[int], AbstractContextManager[None]]
):
    with disk_full(MIB), pytest.raises(OSError, match="File too large|No space"):
        bandwidth(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_folder_above(tmp_path: Path):
    assert existing(tmp_path / "a" / "b") == tmp_path == existing(tmp_path)
