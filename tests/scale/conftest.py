"""A recipe whose trainings take a tenth of a second, and a law to draw losses from."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from sfumato.config import Recipe, load_recipe
from sfumato.scale.law import Law, Point

RECIPE = """
name = "mini"
[model]
width = 16
layers = 2
heads = 2
mlp_width = 32
context = 32
[tokenizer]
vocab_size = 300
[data]
sources = [{ path = "stories.jsonl" }]
held_out = 0.1
cache = "cache"
[train]
tokens = 1000
batch = 4
device = "cpu"
dtype = "float32"
threads = 1
checkpoint_every = 10
"""
WHO, WHAT = ("cat", "dog", "girl", "boy", "bird"), ("sat", "ran", "slept", "sang")
TRUE = Law(E=2.0, A=40.0, B=300.0, alpha=0.35, beta=0.4)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("scale")
    texts = [f"The {WHO[n % 5]} {WHAT[n % 4]} {n} times. It went to house {n * 7 % 31}." for n in range(60)]
    (folder / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = folder / "mini.toml"
    path.write_text(RECIPE)
    return load_recipe(str(path), {"data.cache": str(folder / "cache")})


@pytest.fixture(scope="session")
def drawn() -> Callable[..., list[Point]]:
    """`drawn(noise, seed)`: an isoFLOP ladder of 4 budgets and 5 sizes with losses of the law TRUE, and noise."""

    def make(noise: float = 0.0, seed: int = 0) -> list[Point]:
        random, points = np.random.default_rng(seed), []
        for budget in (1e11, 4e11, 1.6e12, 6.4e12):
            for parameters in 3e4 * (budget / 1e11) ** 0.5 * np.geomspace(0.2, 5, 5):
                tokens = budget / 6 / parameters
                loss = float(TRUE(parameters, tokens)) * np.exp(random.normal(0, noise))
                points.append(Point(float(parameters), float(tokens), float(loss)))
        return points

    return make
