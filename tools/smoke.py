"""What a fresh installation must be able to do; run it with that installation's Python: `python tools/smoke.py`.

It works in an empty folder, so nothing can come from a checkout.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from importlib.metadata import files, version
from pathlib import Path

RECIPE = """
name = "smoke"
[model]
width = 32
layers = 1
heads = 1
mlp_width = 32
context = 32
[tokenizer]
vocab_size = 300
[data]
sources = [{ path = "texts" }]
cache = "cache"
held_out = 0.2
[train]
steps = 2
batch = 2
threads = 1
"""


def main() -> int:
    """Try everything; what fails says so and ends the program."""
    start = time.perf_counter()
    import sfumato

    took = time.perf_counter() - start
    assert "torch" not in sys.modules, "import sfumato loads torch"
    listed = [file for file in files("sfumato") or [] if file.suffix == ".safetensors"]
    package = Path(sfumato.__file__).parent
    assert all(Path(str(file.locate())).is_file() for file in listed) and listed, "no models installed"
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file() and file.suffix != ".pyc")
    print(f"sfumato {version('sfumato')} in {package}: {size / 1e6:.1f} MB, imported in {took:.2f} s")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("texts").mkdir()
        for n in range(20):
            Path("texts", f"{n}.txt").write_text(f"The cat number {n} sat on the mat and saw {n + 1} birds. " * 4)
        Path("recipe.toml").write_text(RECIPE)
        said = sfumato_says("--version")
        assert said.strip() == f"sfumato {sfumato.__version__}", said
        answer = sfumato_says("generate", "Once upon a time", "--max-tokens=8", "--steps=2", "--json")
        assert json.loads(answer), "nothing was written"
        sfumato_says("train", "recipe.toml", "--out", "run")
        facts = json.loads(sfumato_says("info", "run/model", "--json"))
        assert facts["architecture"]["width"] == 32, facts
    print("version, generate, train and info work")
    return 0


def sfumato_says(*words: str) -> str:
    """Standard output of a command, which must succeed."""
    from sfumato.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(words)
    assert code == 0, f"sfumato {' '.join(words)}: exit code {code}"
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
