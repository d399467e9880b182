"""The documentation builds without a warning, is complete, needs no network, and a mistake in it fails."""

import ast
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import sfumato
from sfumato.cli import COMMANDS

ROOT = Path(__file__).parent.parent
SEAMS = (
    *("process.noised.Process", "process.noised.Noised", "model.layout.Layout", "model.transformer.Denoiser"),
    *("model.cache.Cache", "sample.sampler.Sampler", "sample.guidance.seam.Guidance", "sample.decoder.Decoder"),
    *("sample.constraint.seam.Constraint", "canvas.Canvas", "model.bundle.Bundle", "evaluate.tasks.problem.Task"),
)


def built(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(project / "mkdocs.yml"), "-d", str(site)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def described(site: Path) -> set[str]:
    """The Python names that have an entry, from the inventory that other projects link by."""
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    return {line.split(" py:")[0] for line in lines if " py:" in line}


def imported() -> Iterator[tuple[str, str]]:
    """What the examples and the Python blocks of the pages import from the package: module and name."""
    sources = [path.read_text("utf-8") for path in sorted((ROOT / "examples").glob("*.py"))]
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        sources += re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sfumato"):
                yield from ((str(node.module), alias.name) for alias in node.names)


def check_the_reference(site: Path):
    names = described(site)
    assert {f"sfumato.{seam}" for seam in SEAMS} <= names
    wanted = {*imported(), *(("sfumato", name) for name in sfumato.__all__ if not name.startswith("_"))}
    short = {name.rpartition(".")[2] for name in names}  # a package may hand on what its modules define
    missing = {f"{module}.{name}" for module, name in wanted if name not in short}
    assert not missing, "a page of docs/reference/ must describe these"


def check_the_navigation(site: Path):
    start, commands = ((site / name).read_text("utf-8") for name in ("index.html", "commands.html"))
    for page in (ROOT / "docs").rglob("*.md"):
        assert f'href="{page.relative_to(ROOT / "docs").with_suffix(".html")}"' in start, page
    for name in COMMANDS:
        assert f'id="sfumato-{name}"' in commands
    assert "--train.tokens" in commands and "train.tokens" in (site / "recipe.html").read_text("utf-8")


def check_files_outside_docs(site: Path):
    assert "files/recipes/lora.toml.html" in (site / "tune.html").read_text("utf-8")
    assert "rank" in (site / "files" / "recipes" / "lora.toml.html").read_text("utf-8")
    assert (site / "files" / "recipes" / "apps" / "index.html").exists()


def check_that_nothing_is_fetched(site: Path):
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>", text)
        assert [tag for tag in fetched if 'rel="canonical"' not in tag] == [], page
        assert 'class="mermaid"' not in text, "diagrams would be drawn by a script from elsewhere"


@pytest.mark.slow
def test_the_site_is_complete_and_needs_no_network(tmp_path: Path):
    done = built(ROOT, tmp_path)  # once: it takes seconds
    assert done.returncode == 0, done.stderr
    check_the_reference(tmp_path)
    check_the_navigation(tmp_path)
    check_files_outside_docs(tmp_path)
    check_that_nothing_is_fetched(tmp_path)


@pytest.mark.slow
def test_mistakes_fail(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    for name in ("src", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    nav = "nav: [Start: [index.md, commands.md, recipe.md], How-tos: []]"
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\n{nav}\n")
    (tmp_path / "docs" / "style.css").touch()
    (tmp_path / "README.md").write_text("# Start\n\n[a](docs/no.md) [b](docs/new.md#nowhere) [c](recipes/no.toml)\n")
    (tmp_path / "docs" / "new.md").write_text("# New\n\n[d](../no.py) [sfumato.nothing][]\n\n::: sfumato.load\n")
    bad = built(tmp_path, tmp_path / "site")
    assert bad.returncode == 1
    for mistake in ("'docs/no.md'", "#nowhere'", "'recipes/no.toml'", "'../no.py'", "'sfumato.nothing'"):
        assert mistake in bad.stderr
    (tmp_path / "docs" / "new.md").write_text("# New\n\n::: sfumato.nothing\n")
    assert "sfumato.nothing could not be found" in built(tmp_path, tmp_path / "site").stderr
