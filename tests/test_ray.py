"""What a Ray that was killed has left is cleared away, and nothing else; a missing Ray is one line."""

import sys
import tempfile
from pathlib import Path

import pytest

from sfumato import cluster


def test_folders_of_processes_that_are_gone_are_deleted(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as base:  # a short name, as sockets need it
        monkeypatch.setattr(tempfile, "tempdir", base)
        names = ("sfumato-ray-gone", "sfumato-2026-results", "sfumato-ray-paper", "c")
        gone, *others = (Path(base, name) for name in names)
        for folder in (gone, *others):
            folder.mkdir()
        (gone / cluster.HELD).touch()
        with cluster._folder() as other:
            with cluster._folder() as mine:
                assert Path(mine).exists() and Path(other).exists() and mine != other
                assert Path(mine).parent.stat().st_mode & 0o077 == 0
                assert not gone.exists() and all(folder.exists() for folder in others)
            assert not Path(mine).parent.exists() and Path(other).exists()
        assert not Path(other).parent.exists()


def test_a_missing_ray_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^--replicas: needs Ray, .*; pip install 'sfumato\[cluster\]'$"):
        cluster.need_ray("--replicas")
