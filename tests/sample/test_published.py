"""What LLaDA, Dream and Fast-dLLM publish is what our samplers, caches and guidance write: the same tokens, at the same
step, in as many forwards.

Two differences are meant: a text is over at its first end, where theirs go on, and a step that writes nothing runs no
forward.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from decoding import watch
from published import (
    END,
    MASK,
    VOCABULARY,
    Written,
    at_least,
    by_factor,
    dream,
    fast_dllm,
    fast_dream,
    llada,
    per_step,
    random_network,
)

from sfumato.model.layout import Full
from sfumato.process import Masked
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.guidance import ClassifierFree
from sfumato.sample.reuse import Reuse
from sfumato.sample.settings import Settings

SEEDS = range(6)
RECORDED = json.loads((Path(__file__).parent / "published.json").read_text("utf-8"))
"""What the real programs wrote with the weights of `random_network` (LLaDA b7e6c35, Fast-dLLM 24cc59e, float64)."""
ORDERS = ("confidence", "margin", "entropy")


@dataclass(frozen=True)
class Case:
    """A random network and what it is asked."""

    family: str
    seed: int

    def __post_init__(self) -> None:
        r = random.Random(self.seed)
        blocks, block = r.choice([1, 2, 3]), r.choice([4, 6, 9])
        prompt = [r.randrange(2, VOCABULARY) for _ in range(r.randint(1, 12))]
        steps = blocks * r.randint(2, block)
        for name, value in {"block": block, "new": block * blocks, "prompt": prompt, "steps": steps}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "network", random_network(self.family, self.seed))

    def ours(self, *, block: int, steps: int, cfg: float = 0.0, **settings: Any) -> Written:
        """What the decoder does with these settings."""
        shift = int(self.family == "dream")
        process = Masked(MASK, shift=shift)
        chosen = Settings().with_defaults({"temperature": 0.0, "cache": "none"}, settings)
        decoder = Decoder(self.network, process, Full(), end_id=END, device="cpu", reuse=Reuse(chosen.cache))
        row, editable = [*self.prompt, *[MASK] * self.new], [False] * len(self.prompt) + [True] * self.new
        request = Request(
            row,
            editable,
            chosen.build_sampler(process),
            steps,
            temperature=0.0,
            top_k=chosen.top_k,
            top_p=chosen.top_p,
            block=block,
            guidance=(ClassifierFree(cfg, whole=True),) if cfg else (),
            trace=True,
        )
        events = watch(decoder, [request])
        assert events[-1].tokens is not None
        steps_done = [sorted(commit.position for commit in event.commits) for event in events]
        assert events[-1].nfe == sum(map(bool, steps_done)) * (2 if cfg else 1)
        return Written(list(events[-1].tokens), steps_done)


def assert_same(mine: Written, theirs: Written, prompt: int) -> None:
    end = len(theirs.tokens)
    if END in theirs.tokens[prompt:]:
        end = theirs.tokens.index(END, prompt) + 1
    assert mine.tokens[:end] == theirs.tokens[:end]
    busy, published = ([places for places in steps if places] for steps in (mine.steps, theirs.steps))
    assert busy == published[: len(busy)]
    assert len(busy) == len(published) or end < len(theirs.tokens)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cfg", [0.0, 0.5, 2.0])
def test_llada(seed: int, cfg: float):
    case = Case("llada", seed)
    theirs = llada(case.network, case.prompt, case.new, block=case.block, steps=case.steps, cfg=cfg)
    mine = case.ours(block=case.block, steps=case.steps, cfg=cfg, sampler="confidence", judged="drawn")
    assert_same(mine, theirs, len(case.prompt))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_fast_dllm(seed: int, cache: str):
    case = Case("llada", seed)
    ways = [(per_step(case.block, case.steps * case.block // case.new), {"sampler": "confidence"}, case.steps)]
    ways += [(at_least(t), {"sampler": "threshold", "threshold": t}, case.new) for t in (0.2, 0.5)]
    ways += [(by_factor(f), {"sampler": "factor", "factor": f}, case.new) for f in (0.7, 1.5)]
    for rule, settings, steps in ways:
        theirs = fast_dllm(case.network, case.prompt, case.new, block=case.block, rule=rule, cache=cache)
        assert_same(case.ours(block=case.block, steps=steps, cache=cache, **settings), theirs, len(case.prompt))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (0, 0.9), (4, 1.0), (5, 0.95)])
def test_dream(seed: int, order: str, top_k: int, top_p: float):
    case, filters = Case("dream", seed), {"top_k": top_k, "top_p": top_p}
    theirs = dream(case.network, case.prompt, case.new, steps=case.steps, order=order, **filters)
    mine = case.ours(block=0, steps=case.steps, sampler=order, pace="dream", judged="filtered", **filters)
    assert_same(mine, theirs, len(case.prompt))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("threshold", [None, 0.2, 0.5])
def test_fast_dllm_with_dream(seed: int, cache: str, threshold: float | None):
    case = Case("dream", seed)
    theirs = fast_dream(
        case.network,
        case.prompt,
        case.new,
        block=case.block,
        steps=case.steps,
        threshold=threshold,
        cache=cache,
    )
    how: dict[str, Any] = {"sampler": "entropy", "pace": "dream"}
    if threshold is not None:
        how = {"sampler": "threshold", "threshold": threshold}
    steps = case.steps if threshold is None else case.new
    mine = case.ours(block=case.block, steps=steps, cache=cache, lead=True, judged="filtered", **how)
    assert_same(mine, theirs, len(case.prompt))


@pytest.mark.parametrize("run", RECORDED, ids=lambda run: f"{run['loop']}-{run['seed']}-{run['settings']}")
def test_what_the_real_programs_wrote(run: dict[str, Any]):
    case = Case(run["family"], run["seed"])
    mine, theirs = case.ours(**run["settings"]), run["tokens"]
    end = theirs.index(END) + 1 if END in theirs else len(theirs)
    assert mine.tokens[len(case.prompt) :][:end] == theirs[:end]
    forwards, how = sum(map(bool, mine.steps)), run["settings"]
    assert forwards <= run["forwards"]
    # Their cached loops run a block that its first step has filled once more, and some of Dream's steps write nothing.
    if end == len(theirs) and how.get("cache", "none") == "none" and how.get("pace") != "dream":
        assert forwards == run["forwards"]
