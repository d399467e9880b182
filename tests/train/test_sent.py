"""What processes really send in a step, and what they keep, is what the formulas of the planner say."""

import time
from collections.abc import Callable

import pytest
from ranks import together

from sfumato.config import Recipe
from sfumato.plan.cluster import Share
from sfumato.plan.counted import bytes_sent
from sfumato.plan.memory import checkpoint_bytes
from sfumato.plan.run import weights
from sfumato.plan.traffic import sent
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.denoising import denoising
from sfumato.train.parallel import joined, local

pytestmark = pytest.mark.skipif(bytes_sent() is None, reason="only Linux tells what a connection has sent")
WIDE = {"width": 128, "mlp_width": 256, "layers": 2}


def counted(recipes: list[Recipe]) -> list[tuple[int, int]]:
    """Bytes that this process sends in the second step of each recipe, and that it keeps between steps."""
    found = []
    for recipe in recipes:
        with joined(recipe.train, "cpu") as processes:
            run = denoising(recipe, Tokenizer.load(recipe.tokenizer.path), 4, None)
            so_far = []
            for _ in range(2):
                run.step()
                processes.wait()
                time.sleep(0.05)  # until what is on its way has been sent
                so_far.append(bytes_sent() or 0)
            kept = [*run.state.learned.values(), *run.state.average.values()]
            moments = [one for made in run.state.optimisers for one in made.state.values()]
            kept += [value for one in moments for value in one.values()]
            found.append((so_far[1] - so_far[0], sum(local(value).nbytes for value in kept)))
    return found


def test_the_bytes_of_a_step_are_those_of_the_formulas(recipe: Callable[..., Recipe]) -> None:
    shared = {"model": WIDE, "batch": 4, "accumulate": 4}
    recipes = [
        recipe(**shared, optimizer="adamw", shard=1),
        recipe(**shared, optimizer="adamw"),
        recipe(**shared, optimizer="muon", dtype="bfloat16"),
    ]
    for found in together(2, counted, recipes):
        for one, (size, kept) in zip(recipes, found, strict=True):
            model = denoising(one, Tokenizer.load(one.tokenizer.path), 4, None).config.model
            share = Share.of(one.train, 2)
            expected = sum(sent(weights(model, one.train, one.train.dtype), share, "gloo").values())
            assert size == pytest.approx(expected, rel=0.02)
            assert kept == pytest.approx(checkpoint_bytes(one, model) / share.shard, rel=0.001)
