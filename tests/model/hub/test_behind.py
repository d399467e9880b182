"""Our Auto classes are there whatever is imported first, and nobody else pays for them."""

import subprocess
import sys
from pathlib import Path

import public
import pytest

from sfumato.model.adapter import read_weights
from sfumato.model.bundle import find_bundle, read_description
from sfumato.model.hub.behind import behind_import
from sfumato.model.hub.writing import write_public


def outcome(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        "import sfumato.model.hub\nfrom transformers import AutoModelForMaskedLM",
        "from transformers import AutoModelForMaskedLM\nimport sfumato.model.hub",
    ],
)
def test_in_either_order(order: str, tmp_path: Path):
    folder = find_bundle("tiny")
    config, tokenizer_json = read_description(folder)
    write_public(tmp_path, config, read_weights(folder, config.model)[0], tokenizer_json, "")
    program = f"{order}\nprint(type(AutoModelForMaskedLM.from_pretrained({str(tmp_path)!r})).__name__)"
    assert outcome(program) == "SfumatoForMaskedLM"


def test_reading_a_public_model_imports_no_transformers(tmp_path: Path):
    public.write_checkpoint(tmp_path, public.LLADA)
    read = f"from sfumato.model.bundle import Bundle\nBundle.load({str(tmp_path)!r})"
    assert outcome(f"import sys\n{read}\nprint('transformers' in sys.modules)") == "False"


def test_an_action_waits_for_the_import_and_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib

    (tmp_path / "a_late_package.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[int] = []
    behind_import("a_late_package", lambda: seen.append(sys.modules["a_late_package"].value))
    assert importlib.util.find_spec("a_late_package") is not None and seen == []
    importlib.import_module("a_late_package")
    assert seen == [1]
    importlib.reload(sys.modules["a_late_package"])
    assert seen == [1]
    behind_import("a_late_package", lambda: seen.append(2))
    assert seen == [1, 2]
    before = list(sys.meta_path)
    behind_import("a_package_that_is_not_there", lambda: seen.append(3))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("a_package_that_is_not_there")
    assert seen == [1, 2]
    sys.meta_path[:] = before
    del sys.modules["a_late_package"]


def test_an_import_that_fails_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib

    file = tmp_path / "a_failing_package.py"
    file.write_text("raise ImportError('not yet')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    seen: list[int] = []
    behind_import("a_failing_package", lambda: seen.append(1))
    with pytest.raises(ImportError, match="not yet"):
        importlib.import_module("a_failing_package")
    assert seen == []
    file.write_text("value = 1\n")
    importlib.invalidate_caches()
    importlib.import_module("a_failing_package")
    assert seen == [1]
    del sys.modules["a_failing_package"]
