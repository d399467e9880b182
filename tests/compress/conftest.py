"""A small model that has learned something, and networks whose every weight is random."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.compress.calibration import Calibration
from sfumato.config import DataConfig, ModelConfig, ProcessConfig, Recipe, Source, TokenizerConfig, TrainConfig
from sfumato.data.batches import rows_of
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens
from sfumato.model.layout import Full
from sfumato.model.transformer import Transformer
from sfumato.process import build_process
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.loop import train

NAMES, VERBS, THINGS = "Tom Lily Ben Mia".split(), "saw took found lost".split(), "ball dog hat tree".split()


def stories(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(f"{draw.choice(NAMES)} {draw.choice(VERBS)} the {draw.choice(THINGS)}." for _ in range(12))
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.jsonl and its tokenizer.json."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories(60, 0)))
    Tokenizer.train(stories(60, 0), 290).save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def data(text: Path) -> DataConfig:
    return DataConfig((Source(str(text / "data.jsonl")),), held_out=0.1, cache=str(text / "cache"))


@pytest.fixture(scope="session")
def folder(text: Path, data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a model of three layers with four heads, trained for a moment."""
    recipe = Recipe(
        name="small",
        model=ModelConfig(width=32, layers=3, heads=4, mlp_width=64, context=32),
        tokenizer=TokenizerConfig(path=str(text / "tokenizer.json")),
        data=data,
        train=TrainConfig(steps=120, batch=16, warmup=10, ema=0.9, dtype="float32", device="cpu", threads=1),
    )
    found, _ = train(recipe, tmp_path_factory.mktemp("run"))
    assert found
    return found


@pytest.fixture(scope="session")
def model(folder: Path) -> LanguageModel:
    return LanguageModel.load(folder, "cpu", "float32")


@pytest.fixture(scope="session")
def calibration(model: LanguageModel) -> Calibration:
    """Text that the model has not seen, with names that it knows."""
    batch, _ = rows_of(stories(40, 1), model.tokenizer, 32)
    return Calibration(model.process, model.layout, batch.select(torch.arange(96)), rows=48)


@pytest.fixture(scope="session")
def bundle() -> Callable[..., Bundle]:
    """`bundle(dtype, **changes of the configuration)`: every weight is random."""

    def build(dtype: torch.dtype = torch.float64, **changes: Any) -> Bundle:
        sizes = {"vocab_size": 23, "width": 16, "layers": 3, "heads": 4, "mlp_width": 24, "context": 16}
        config = ModelConfig(**sizes | changes)
        tokens = SpecialTokens(0, 1, 2, 3)
        network = Transformer(config, never_written=tokens.never_written)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 1 + noise / 4)
        settings = BundleConfig(config, ProcessConfig(), "full", 0, tokens, "")
        return Bundle(settings, network.to(dtype).eval().requires_grad_(False), "{}")

    return build


@pytest.fixture(scope="session")
def noise() -> Callable[..., Calibration]:
    """`noise(rows)`: rows of random tokens for the networks of `bundle`."""

    def make(rows: int = 6) -> Calibration:
        from sfumato.data.batches import Batch

        tokens_BL = torch.randint(4, 23, (rows, 16), generator=torch.Generator().manual_seed(2))
        position_BL = torch.arange(16).expand_as(tokens_BL)
        batch = Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL > 0)
        process = build_process(ProcessConfig(), vocab_size=23, mask_id=0, never_written=(0, 2, 3))
        return Calibration(process, Full(), batch)

    return make
