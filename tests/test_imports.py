"""Arrows point down only: which room of the package may import which, read from the source, not from what ran."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sfumato.cli

PACKAGE = Path(sfumato.cli.__file__).parents[1]
GROUND = {"config", "canvas", "rng", "cluster"}  # they know nobody
MAY_IMPORT = {
    **{room: set() for room in GROUND},
    "cluster": {"config"},
    **dict.fromkeys(("text", "process", "model"), GROUND),
    "data": GROUND | {"text"},
    "sample": GROUND | {"text", "process", "model"},
    "train": GROUND | {"text", "process", "model", "data"},
    "evaluate": GROUND | {"text", "process", "model", "data", "sample"},
    "bulk": GROUND | {"text", "process", "model", "data", "sample", "evaluate"},
    "tune": GROUND | {"text", "process", "model", "data", "sample", "train", "evaluate"},
    "compress": GROUND | {"text", "process", "model", "data", "sample", "train", "evaluate"},
    "plan": GROUND | {"model", "process", "train", "compress.fits"},
    "doctor": GROUND | {"text", "process", "model", "data", "sample", "train", "evaluate"},
    "scale": GROUND
    | {"text", "process", "model", "data", "sample", "train", "evaluate", "store.files", "show.plots", "show.scaling"},
    "show": GROUND | {"sample.trace"},
    "store": GROUND,
    "improve": GROUND | {"text", "process", "model", "data", "sample", "train", "evaluate", "tune", "store"},
    "serve": GROUND | {"text", "process", "model", "sample", "store", "show"},
    "cli": {"*"},
    "__main__": {"cli"},
    "": {"*"},  # sfumato/__init__.py gathers the public names
}
NOBODY_IMPORTS = {"cli", "__main__"}
HEAVY = (
    *("torch", "numpy", "tokenizers", "safetensors", "rich", "datasets", "matplotlib", "sacrebleu"),
    *("fastapi", "uvicorn", "pydantic", "sqlalchemy", "prometheus_client", "llguidance", "jsonschema"),
    *("breame", "datasketch", "ftfy", "py3langid", "lm_eval", "transformers", "ray", "fsspec", "scipy"),
)


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imported(source: str, module: str, is_package: bool) -> set[str]:
    """What a module imports from the package, wherever in its text, as names relative to the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["sfumato", *filter(None, module.split("."))]
                here = here[: len(here) - node.level + is_package]
                base = ".".join([*here, base] if base else here)
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            found |= {text for text in texts if isinstance(text, str)}  # of an f-string, the part that is known
    return {name.removeprefix("sfumato").lstrip(".") for name in found if f"{name}.".startswith("sfumato.")}


def offences(module: str, names: set[str]) -> list[str]:
    room = module.partition(".")[0]
    if room not in MAY_IMPORT:
        return [f"{module}: the room {room!r} has no arrows; give it some in MAY_IMPORT"]
    bad = []
    for name in sorted(names):
        target = name.partition(".")[0]
        if target not in MAY_IMPORT:  # a public name: only what is above the rooms may go through the front door
            allowed = "*" in MAY_IMPORT[room]
        elif target == room:
            allowed = True
        elif target in NOBODY_IMPORTS:
            allowed = target in MAY_IMPORT[room]
        else:
            allowed = any(good == "*" or f"{name}.".startswith(f"{good}.") for good in MAY_IMPORT[room])
        if not allowed:
            bad.append(f"sfumato.{module} must not import sfumato.{name}")
    return bad


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down_only(module: str):
    path = MODULES[module]
    assert offences(module, imported(path.read_text("utf-8"), module, path.name == "__init__.py")) == []


@pytest.mark.parametrize(
    ("module", "source", "guilty"),
    [
        ("text.a", "from sfumato.model import x", True),
        ("text.a", "import sfumato.model.bundle as b", True),
        ("text.a", "def f():\n    from sfumato import process", True),
        ("text.a", "from ..data import x", True),
        ("text.a", "from .b import x\nfrom . import b\nfrom sfumato.canvas import Canvas\nimport torch", False),
        ("text.a", "import importlib\nimportlib.import_module('sfumato.train')", True),
        ("text.a", "import importlib\nimportlib.import_module(f'sfumato.train.{x}')", True),
        ("text.a", "from sfumato import load", True),
        ("text.a", "import sfumato", True),
        ("canvas", "from sfumato import rng", True),
        ("rng", "import torch", False),
        ("data.batches", "from sfumato.text import Tokenizer", False),
        ("data.batches", "from sfumato.process import Masked", True),
        ("sample.decoder", "from sfumato.model import load", False),
        ("sample.decoder", "from sfumato.train import loop", True),
        ("train.loop", "from sfumato.sample import decoder", True),
        ("evaluate.bound", "from sfumato.train import loop", True),
        ("show.live", "from sfumato.sample.trace import Event", False),
        ("show.live", "from sfumato.sample import trace", False),
        ("show.live", "from sfumato.sample.decoder import Decoder", True),
        ("show.live", "from sfumato.sample import tracer", True),
        ("train.loop", "from sfumato.cli import main", True),
        ("", "from sfumato.cli import main", True),
        ("", "def f():\n    from sfumato.sample import generate", False),
        ("cli.train", "from sfumato import load\nfrom sfumato.train import loop", False),
        ("attic.a", "import os", True),
    ],
)
def test_the_rule_itself(module: str, source: str, guilty: bool):
    assert bool(offences(module, imported(source, module, is_package=False))) == guilty


def test_relative_imports_of_a_package_start_in_the_package():
    assert imported("from . import masked\nfrom ..rng import f", "process", is_package=True) == {
        "process.masked",
        "rng.f",
    }


def loaded_by(program: str, *words: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after the program."""
    probe = f"import sys\ntry:\n    {program}\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
    probe += f"print('loaded', *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()[1:])


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import sfumato, sfumato.config, sfumato.cli") == set()


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in sfumato.cli.COMMANDS)], ids=" ".join)
def test_asking_for_help_loads_nothing_heavy(words: list[str]):
    assert loaded_by("import runpy; runpy.run_module('sfumato', run_name='__main__', alter_sys=True)", *words) == set()
