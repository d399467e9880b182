"""A run that takes a fraction of a second: one thin layer, rows of 32 tokens, a few KB of text."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import DataConfig, ModelConfig, ProcessConfig, Recipe, Source, TokenizerConfig, TrainConfig
from sfumato.text.tokenizer import Tokenizer
from sfumato.train import retry

NAMES, VERBS, THINGS = "Tom Lily Ben Mia".split(), "saw took found lost".split(), "ball dog hat tree".split()

MODEL = ModelConfig(width=32, layers=1, heads=2, mlp_width=64, context=32)
TRAIN = TrainConfig(
    steps=12, batch=8, warmup=3, decay=0.5, ema=0.9, checkpoint_every=4, dtype="float32", device="cpu", threads=1
)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.jsonl, its tokenizer.json and its cache."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(0)
    stories = []
    for _ in range(40):
        sentences = [f"{draw.choice(NAMES)} {draw.choice(VERBS)} the {draw.choice(THINGS)}." for _ in range(15)]
        stories.append(" ".join(sentences))
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    Tokenizer.train(stories, 290).save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def recipe(text: Path) -> Callable[..., Recipe]:
    """`recipe(process={...}, model={...}, seed=1, steps=3, ...)`: sections as dicts, all else belongs to `train`."""

    def make(*, process: dict | None = None, model: dict | None = None, seed: int = 5, **train: Any) -> Recipe:
        return Recipe(
            name="small",
            model=replace(MODEL, **model or {}),
            process=ProcessConfig(**process or {}),
            tokenizer=TokenizerConfig(path=str(text / "tokenizer.json")),
            data=DataConfig((Source(str(text / "data.jsonl")),), held_out=0.1, cache=str(text / "cache")),
            train=replace(TRAIN, **train),
            seed=seed,
        )

    return make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is asked again soon."""
    monkeypatch.setattr(retry, "PAUSES", (0.0, 0.001, 0.002))


@pytest.fixture(scope="session")
def watch() -> Callable[..., Any]:
    """`watch(stepped, started)`: a watcher made of one or two functions."""

    class Watch:
        def __init__(self, stepped: Callable = lambda record: None, started: Callable = lambda *found: None):
            self.stepped, self.started = stepped, started

    return Watch


@pytest.fixture(scope="session")
def column() -> Callable[[Path, str], list[Any]]:
    """`column(run, name)`: a column of the run's metrics.jsonl, every digit of it."""

    def read(out: Path, name: str) -> list[Any]:
        return [json.loads(line)[name] for line in (out / "metrics.jsonl").read_text().splitlines()]

    return read


@pytest.fixture(scope="session")
def outcome(column: Callable[[Path, str], list[Any]]) -> Callable[[Path], dict[str, Any]]:
    """`outcome(run)`: everything that a run computes, to the last bit."""

    def of(out: Path) -> dict[str, Any]:
        last = sorted((out / "checkpoints").glob("step-*"))[-1]
        files = [last / "tensors.safetensors", *(out / "model").glob("*")]
        found: dict[str, Any] = {str(path.relative_to(out)): path.read_bytes() for path in files}
        found["state"] = json.loads((last / "state.json").read_text())
        found["state"]["spikes"].pop("good")  # which checkpoints there are is no result
        names = ("step", "loss", "grad_norm", "lr", "tokens", "skipped")
        return found | {name: column(out, name) for name in names}

    return of
