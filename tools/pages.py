"""Hooks of `mkdocs.yml`: the pages that are made rather than written, and links that lead out of docs/.

The README and its neighbours, what every command says to `--help`, the keys of a recipe, and each file of the
repository that a page links to become pages of the site: it is complete offline, and a link to what is not there fails.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)\s#]+)(#[^)\s]*)?(?=\))")
AT_THE_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LANGUAGES = {".conf": "nginx", ".py": "python", ".service": "ini", ".toml": "toml", ".yaml": "yaml", "": "docker"}
LONGEST = 100_000  # characters of a file that are shown
UNLISTED = "How-tos"  # the section that a page of docs/ joins which mkdocs.yml does not name


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every page of docs/ is in the navigation, at the end of the how-tos if nowhere else."""
    listed = set(_leaves(config.nav))
    new = [page.name for page in sorted(Path(config.docs_dir).glob("*.md")) if page.name not in listed]
    for section in config.nav or []:
        section.get(UNLISTED, []).extend(new)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    root = Path(config.config_file_path).parent
    made = {page: (root / name).read_text("utf-8") for name, page in AT_THE_ROOT.items() if (root / name).exists()}
    texts = {root / name: made[page] for name, page in AT_THE_ROOT.items() if page in made}
    texts |= {Path(str(file.abs_src_path)): file.content_string for file in files.documentation_pages()}
    for page, text in (made | {"commands.md": _commands(), "recipe.md": _recipe()}).items():
        files.append(File.generated(config, page, content=text))
    for target in sorted({target for origin, text in texts.items() for target in _outside(origin, text, root)}):
        text = _shown(target, root)
        files.append(File.generated(config, _page(target, root), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    root = Path(config.config_file_path).parent
    origins = {name: root / source for source, name in AT_THE_ROOT.items()}
    here = page.file.src_uri
    origin = origins.get(here, Path(config.docs_dir) / here)

    def to_page(link: re.Match[str]) -> str:
        target = _target(origin, link[1])
        if here.startswith("files/") or not target.exists() or not target.is_relative_to(root):
            return link[0]  # relative to the page already, or for mkdocs to complain about
        return os.path.relpath(_page(target, root), PurePosixPath(here).parent) + (link[2] or "")

    return LINK.sub(to_page, markdown)


def _leaves(nav: Any) -> Iterator[str]:
    for entry in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(entry, str):
            yield entry
        else:
            yield from _leaves(entry)


def _target(origin: Path, link: str) -> Path:
    return Path(os.path.normpath(origin.parent / link))


def _page(target: Path, root: Path) -> str:
    """The page of the site that shows a file of the repository."""
    path = target.relative_to(root)
    if str(path) in AT_THE_ROOT:
        return AT_THE_ROOT[str(path)]
    if path.parts[0] == "docs":
        return str(path.relative_to("docs"))
    return f"files/{path}/index.md" if target.is_dir() else f"files/{path}.md"


def _outside(origin: Path, text: str, root: Path) -> Iterator[Path]:
    """The files that the links of a text lead to and that are no pages yet; of a folder, what is in it too."""
    for link, _ in LINK.findall(text):
        target = _target(origin, link)
        if not target.exists() or not target.is_relative_to(root) or not _page(target, root).startswith("files/"):
            continue
        yield target
        if target.is_dir():
            yield from (file for file in target.iterdir() if file.is_file())


def _shown(target: Path, root: Path) -> str:
    """A file of the repository as a page."""
    title = f"---\nsearch: {{ exclude: true }}\n---\n\n# {target.relative_to(root)}\n\n"
    if target.is_dir():
        inside = sorted(file.name for file in target.iterdir() if file.is_file())
        return title + "\n".join(f"- [{name}]({name}.md)" for name in inside)
    try:
        text = target.read_text("utf-8")[:LONGEST]
    except UnicodeDecodeError:
        return f"{title}{target.stat().st_size:,} bytes that are no text.\n"
    return f"{title}~~~~{LANGUAGES.get(target.suffix, 'text')}\n{text}\n~~~~\n"


def _commands() -> str:
    """What every command answers to `--help`, asked when the site is built."""
    text = _help()
    about = "What every command answers to `--help`. A mistake is one line on standard error and exit code 2."
    return f"# Commands\n\n{about}\n\n```text\n{text}```\n" + "".join(_sections(text, "sfumato", 2))


def _sections(text: str, prog: str, level: int) -> Iterator[str]:
    _, _, commands = text.partition("\ncommands:\n")
    for name in re.findall(r"^  (\S+)", commands, re.M):
        inner = _help(*prog.split()[1:], name)
        yield f"\n{'#' * level} {prog} {name}\n\n```text\n{inner}```\n"
        yield from _sections(inner, f"{prog} {name}", level + 1)


def _help(*words: str) -> str:
    from sfumato.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), patch.dict(os.environ, COLUMNS="100"):
        assert main([*words, "--help"]) == 0, words
    return out.getvalue()


def _recipe() -> str:
    """The keys of a recipe, from the dataclasses that check them."""
    from sfumato.config import Recipe

    about = "A recipe is a TOML file; each key is also a flag of `sfumato train` and `tune`: `--section.key value`."
    return f"# Recipe\n\n{about}\n" + "".join(_tables(Recipe, ""))


def _tables(cls: Any, prefix: str) -> Iterator[str]:
    from typing import get_args, get_type_hints

    hints, inner, rows = get_type_hints(cls), [], []
    for key in fields(cls):
        kinds = [kind for kind in (hints[key.name], *get_args(hints[key.name])) if is_dataclass(kind)]
        if kinds:
            inner.append((kinds[0], f"{prefix}{key.name}."))
            continue
        default = "" if key.default in (MISSING, None, "") else f"`{key.default}`"
        rows.append(f"| `{prefix}{key.name}` | {default} | {_meaning(key.metadata)} |\n")
    title = f"\n## {prefix.rstrip('.')}\n" if prefix else ""
    yield f"{title}\n| key | default | meaning |\n|---|---|---|\n{''.join(rows)}"
    for kind, name in inner:
        yield from _tables(kind, name)


def _meaning(rules: Any) -> str:
    choices = " ".join(f"`{choice}`" for choice in rules.get("choices", ()))
    text = rules.get("help", "").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return f"{text}; one of {choices}" if choices else text
