"""What is released: a source distribution, the wheel built from it, and an installation of that wheel."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sfumato

ROOT = Path(__file__).parent.parent
MEGABYTES = 40  # PyPI takes no file above 100


def run(*words: str | Path, **environment: str) -> str:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(project: Path, target: str, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


def unpacked(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
    (folder,) = into.iterdir()
    return folder


def check_the_source_distribution(source: Path):
    for name in ("tests/test_wheel.py", "recipes/quick.toml", "docs/train.md", "Makefile", "constraints.txt"):
        assert (source / name).is_file(), name
    assert not [path for path in source.iterdir() if path.name in (".venv", "site", "dist", "runs", "data", ".git")]


def check_the_wheel(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "sfumato").rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {name for name in ours if "__pycache__" not in name}
    assert {"sfumato/py.typed", "sfumato/models/tiny/model.safetensors", "sfumato/serve/web/index.html"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def check_an_installation(wheel: Path, target: Path):
    pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", target)
    run(*pip, wheel)
    said = run("-P", ROOT / "tools" / "smoke.py", PYTHONPATH=str(target))
    assert f"in {target / 'sfumato'}:" in said
    program = run("-P", target / "bin" / "sfumato", "--version", PYTHONPATH=str(target))
    assert program == f"sfumato {sfumato.__version__}\n"


@pytest.mark.slow
def test_the_source_distribution_builds_the_wheel_of_the_checkout_and_that_works_elsewhere(tmp_path: Path):
    packed = build(ROOT, "sdist", tmp_path / "sdist")  # once each: these take seconds
    source = unpacked(packed, tmp_path / "source")
    wheel = build(source, "wheel", tmp_path / "wheel")
    assert wheel.read_bytes() == build(ROOT, "wheel", tmp_path / "again").read_bytes()
    assert max(packed.stat().st_size, wheel.stat().st_size) < MEGABYTES * 1e6
    check_the_source_distribution(source)
    check_the_wheel(wheel)
    check_an_installation(wheel, tmp_path / "installed")
