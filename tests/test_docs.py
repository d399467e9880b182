"""Every command and every Python block in the README and the docs runs."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STEPS = ["--train.steps", "2", "--train.batch", "2", "--train.threads", "1"]
RUN = [*STEPS, "--data.held_out", "0.001"]
SHORTER = {"train": RUN, "tune": RUN, "improve": STEPS}  # the run itself is tested elsewhere


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """What one page has tokenised, no other has to."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workplace(tmp_path, monkeypatch, cache):
    """A folder that looks like a checkout to a relative path."""
    for folder in ("recipes", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFUMATO_CACHE", str(cache))
    return tmp_path


@pytest.fixture
def background():
    """Starts a server, and waits until it serves; ends it with the page."""
    with contextlib.ExitStack() as stack:

        def start(words: list[str]) -> None:
            command = [sys.executable, "-m", "sfumato", *words]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            assert process.stdout and " at http" in process.stdout.readline()

        yield start


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.name)
def test_commands_run(page, workplace, capfd, background):
    for line in "".join(blocks(page, "sh")).splitlines():
        if line.startswith(("echo ", "curl ")):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(["bash", "-ec", line], check=True, env={**os.environ, "PATH": path})
            continue
        program, *words = shlex.split(line, comments=True)
        assert program == "sfumato", line
        if words[-1] == "&":
            background(words[:-1])
            continue
        if words[0] == "evaluate" and not {"--tasks", "--documents"} & set(words):
            words += ["--documents", "4"]
        code = main([*words, *SHORTER.get(words[0], [])])
        assert code == 0, (line, capfd.readouterr().err)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs(page, workplace):
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
