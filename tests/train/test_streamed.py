"""A run on streamed text goes on where it was stopped, bit for bit."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import Recipe
from sfumato.train.loop import train


def test_a_stopped_run_continues_bit_for_bit(
    tmp_path: Path, recipe: Callable[..., Recipe], watch: Callable, outcome: Callable[[Path], dict[str, Any]]
) -> None:
    asked = recipe()
    asked = replace(asked, data=replace(asked.data, stream=True, lanes=4))
    train(asked, tmp_path / "whole")
    stop = watch(lambda record: signal.raise_signal(signal.SIGTERM) if record["step"] == 5 else None)
    assert train(asked, tmp_path / "stopped", watcher=stop) == (None, signal.SIGTERM)
    assert train(asked, tmp_path / "stopped") == (tmp_path / "stopped" / "model", 0)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_data_that_changed_stops_a_run(tmp_path: Path, recipe: Callable[..., Recipe], text: Path) -> None:
    copy = tmp_path / "data.jsonl"
    copy.write_bytes((text / "data.jsonl").read_bytes())
    asked = recipe(steps=4)
    source = replace(asked.data.sources[0], path=str(copy))
    asked = replace(asked, data=replace(asked.data, stream=True, lanes=4, sources=(source,)))
    train(asked, tmp_path / "run")
    copy.write_bytes(copy.read_bytes() + b'{"text": "One more."}\n')
    with pytest.raises(ValueError, match="the training data is not what it was when this run stopped"):
        train(asked, tmp_path / "run")
