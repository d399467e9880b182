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
pytestmark = pytest.mark.xdist_group("wheel")  # it is built once


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


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    made = build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))
    assert made.stat().st_size < MEGABYTES * 1e6
    with tarfile.open(made) as archive:
        archive.extractall(made.parent / "unpacked", filter="data")
    (folder,) = (made.parent / "unpacked").iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_source_distribution_builds_the_wheel_of_the_checkout(wheel: Path, tmp_path: Path):
    assert wheel.read_bytes() == build(ROOT, "wheel", tmp_path).read_bytes()


@pytest.mark.slow
def test_the_source_distribution_is_the_checkout(source: Path):
    for name in (
        "tests/test_wheel.py",
        "recipes/quick.toml",
        "docs/train.md",
        "Makefile",
        "constraints.txt",
        "LICENSE",
    ):
        assert (source / name).is_file(), name
    assert not [path for path in source.iterdir() if path.name in (".venv", "site", "dist", "runs", "data", ".git")]


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    assert wheel.stat().st_size < MEGABYTES * 1e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "sfumato").rglob("*") if path.is_file()}
    tracked = {name for name in tracked if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == tracked
    assert {"sfumato/py.typed", "sfumato/models/tiny/model.safetensors", "sfumato/serve/web/index.html"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path):
    target = tmp_path / "installed"
    pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", target)
    run(*pip, wheel)
    said = run("-P", ROOT / "tools" / "smoke.py", PYTHONPATH=str(target))
    assert f"in {target / 'sfumato'}:" in said
    program = run("-P", target / "bin" / "sfumato", "--version", PYTHONPATH=str(target))
    assert program == f"sfumato {sfumato.__version__}\n"
