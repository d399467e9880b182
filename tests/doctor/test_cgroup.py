from pathlib import Path

import pytest

from sfumato.doctor.cgroup import Limits, limits


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "2147483648\n"}, Limits(1.5, 2**31)),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, Limits(None, None)),
        (  # the tightest of a group and its parents
            "0::/slice/job\n",
            {"slice/cpu.max": "400000 100000", "slice/job/cpu.max": "800000 100000", "slice/job/memory.max": "1024"},
            Limits(4.0, 1024),
        ),
        (  # version 1
            "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
                "memory/docker/x/memory.limit_in_bytes": "4096",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            Limits(2.0, 4096),
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, Limits(None, None)),
        ("0::/docker/unseen\n", {"cpu.max": "100000 100000"}, Limits(1.0, None)),
        ("", {}, Limits(None, None)),
    ],
)
def test_the_limits_of_a_container(tmp_path: Path, own: str, files: dict[str, str], expected: Limits):
    (tmp_path / "own").write_text(own)
    assert limits(write(tmp_path / "root", files), tmp_path / "own") == expected


def test_where_there_are_no_groups_there_is_no_limit(tmp_path: Path):
    assert limits(tmp_path / "none", tmp_path / "none") == Limits(None, None)
