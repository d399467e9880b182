"""What a Ray that was killed has left is cleared away, and nothing else; a missing Ray is one line."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sfumato import cluster


def test_folders_of_processes_that_are_gone_are_deleted(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as base:  # a short name, as sockets need it
        monkeypatch.setattr(tempfile, "tempdir", base)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        alive, gone, other = (Path(base, name) for name in (f"sfumato-{os.getpid()}-a", f"sfumato-{ended.pid}-b", "c"))
        for folder in (alive, gone, other):
            folder.mkdir()
        with cluster._folder() as mine:
            assert Path(mine).name.startswith(f"sfumato-{os.getpid()}-")
            assert alive.exists() and other.exists() and not gone.exists()
        assert not Path(mine).exists()


def test_a_missing_ray_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^--replicas: needs Ray, .*; pip install 'sfumato\[cluster\]'$"):
        cluster.need_ray("--replicas")
