"""A tiny pilot: what its model is taught, and what people wish it had said."""

import json
from collections.abc import Iterable
from pathlib import Path

from sfumato.config import DataConfig, ModelConfig, Recipe, Source, TokenizerConfig, TrainConfig

ANSWERS = {"red": "a b", "blue": "c", "green": "d e f g", "black": "a d"}
GOOD = [(f"{colour} {i}", answer) for i in range(20) for colour, answer in (("white", "u"), ("pink", "w"))]
"""Prompts that nobody taught the model, and what it should say."""
WORDS = "red blue green black white pink a b c d e f g u v w 0 1 2 3 4 5 6 7 8 9\n"


def talk(lines: Iterable[tuple[str, str]]) -> str:
    said = ([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}] for asked, answer in lines)
    return "".join(json.dumps({"messages": messages}) + "\n" for messages in said)


def recipe(data: Path, folder: Path, *, steps: int, init: str = "", **train_options) -> Recipe:
    return Recipe(
        name="small",
        init=init,
        model=ModelConfig(width=64, layers=2, heads=2, mlp_width=128, context=32),
        tokenizer=TokenizerConfig(vocab_size=263),
        data=DataConfig((Source(str(data)),), held_out=0.15, cache=str(folder / "cache")),
        train=TrainConfig(steps=steps, batch=8, warmup=2, dtype="float32", device="cpu", threads=1, **train_options),
    )
