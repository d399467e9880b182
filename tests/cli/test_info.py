import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main

Captured = pytest.CaptureFixture[str]


def test_json_holds_what_there_is_to_know(trained: Path, capsys: Captured):
    assert main(["info", str(trained / "model"), "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert out.count("\n") == 1
    assert found["architecture"]["width"] == 32 and found["architecture"]["kv_heads"] == 2
    assert found["process"]["kind"] == "masked" and (found["layout"], found["shift"]) == ("full", 0)
    assert found["tokenizer"]["tokens"] == found["architecture"]["vocab_size"]
    assert found["made"]["steps"] == 4 and found["made"]["seed"] == 3
    assert found["sampler"]["sampler"] == "threshold" and found["special_tokens"]["mask"] == 0
    assert found["bytes"] == sum(path.stat().st_size for path in (trained / "model").iterdir())
    vocabulary = found["architecture"]["vocab_size"]
    assert found["parameters"] == 32 * vocabulary + 4 * 32 * 32 + 3 * 32 * 48 + 3 * 32 + 2 * 16


def test_a_person_gets_a_table(trained: Path, capsys: Captured):
    assert main(["info", "--model", str(trained / "model")]) == 0
    out = capsys.readouterr().out
    assert "parameters" in out and "kind masked" in out and "steps 4" in out


def test_a_model_that_cannot_be_loaded_is_one_line(trained: Path, tmp_path: Path, refused: Callable[..., str]):
    assert refused("info", tmp_path / "none", "--json").startswith(f"{tmp_path}/none: no such model")
    model = tmp_path / "model"
    shutil.copytree(trained / "model", model)
    (model / "tokenizer.json").write_text("{}")
    assert "not the tokenizer this model was trained with" in refused("info", model)
    (model / "config.json").write_text("{")
    assert refused("info", model).startswith(f"{model}/config.json:1: not valid JSON")
