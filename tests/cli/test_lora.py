"""Adapters on the command line: tuned, kept beside their base, and used like any other model."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main

WORDS = ["--lora.rank", "2", "--lora.merge", "false"]


def test_an_adapter_is_tuned_described_and_used(tuning: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    assert main(["tune", str(tuning), "--out", str(tmp_path / "run"), *WORDS]) == 0
    model = tmp_path / "run" / "model"
    assert {path.name for path in model.iterdir()} == {
        "adapter.safetensors", "config.json", "README.md", "tokenizer.json"
    }  # fmt: skip
    assert "| Adapter | rank 2, of model, which has to be there |" in (model / "README.md").read_text()
    capsys.readouterr()
    assert main(["info", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapter"]["rank"] == 2 and found["adapter"]["scale"] == 8 and found["chat"]
    assert main(["generate", "The cat", "--model", str(model), "--max-tokens", "4", "--json"]) == 0


def test_an_adapter_without_its_base_is_one_line(
    tuning: Path, trained: Path, tmp_path: Path, refused: Callable[..., str]
):
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    shutil.copytree(trained / "model", tmp_path / "base")
    words = ["--init", str(tmp_path / "base"), "--train.steps", "1", *WORDS]
    assert main(["tune", str(tuning), "--out", str(tmp_path / "run"), *words]) == 0
    shutil.rmtree(tmp_path / "base")
    told = refused("generate", "The cat", "--model", tmp_path / "run" / "model")
    assert f"its base {tmp_path}/base is missing" in told and "adapter.base" in told


def test_a_registry_keeps_an_adapter_with_its_base(tuning: Path, trained: Path, tmp_path: Path):
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    shutil.copytree(trained / "model", tmp_path / "base")
    words = ["--init", str(tmp_path / "base"), "--train.steps", "1", *WORDS]
    assert main(["tune", str(tuning), "--out", str(tmp_path / "run"), *words]) == 0
    registry = ["--registry", str(tmp_path / "a registry")]
    assert main(["models", "add", str(tmp_path / "run" / "model"), *registry]) == 0
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "run")
    (model,) = (tmp_path / "a registry").glob("versions/*/model")
    assert main(["generate", "The cat", "--model", str(model), "--max-tokens", "2", "--json"]) == 0


def test_without_peft_it_is_one_line(tuning: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    monkeypatch.setattr("sfumato.model.lora.find_spec", importlib.util.find_spec)
    told = refused("tune", tuning, "--out", tuning.parent / "run", *WORDS)
    assert told == "lora.rank: adapters need peft, not installed here: pip install 'sfumato[tune]'"
