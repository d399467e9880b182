"""Likelihoods of continuations: exact where they can be, and the same whatever stands beside them."""

from dataclasses import replace

import pytest
import torch
from bundles import make
from oracle import MASK, Oracle
from scoring import TEXT, build, continuation

from sfumato.config import ConfigError
from sfumato.data.batches import Batch, rows_of
from sfumato.data.sources import Pair
from sfumato.evaluate.chain import chained
from sfumato.evaluate.continuation import (
    ESTIMATORS,
    check_estimator,
    continuation_nats,
    passes,
    sample_stderr,
)
from sfumato.evaluate.enumeration import enumerated
from sfumato.evaluate.likelihood import estimates, likelihood
from sfumato.model.layout import Block, Full, Layout
from sfumato.process import Cosine, Masked
from sfumato.text.tokenizer import Tokenizer


def rows(oracle: Oracle) -> Batch:
    tokens_BL = oracle.rows_TL
    position_BL = torch.arange(tokens_BL.shape[1]).expand(tokens_BL.shape)
    return Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL > 0)


# --- from left to right


@pytest.mark.parametrize("layout", [Full(), Block(1), Block(2), Block(3)], ids=["full", "one", "two", "three"])
def test_true_conditionals_from_left_to_right_give_each_text_its_probability(oracle: Oracle, layout: Layout):
    nats_T = chained(oracle, Masked(MASK), layout, rows(oracle), rows=50)
    assert torch.allclose(nats_T, -oracle.probability_T.log(), atol=1e-6)


def test_from_left_to_right_is_one_order_of_many():
    """With blocks of one token there is no other: the bound is that very number."""
    config = make(Tokenizer.train([TEXT * 4], 290)).config
    model = build(layout="block", model=replace(config.model, block=1))
    parts = [continuation(model, "the cat", " sat"), continuation(model, "the", " mat.")]
    found = continuation_nats(model, parts, estimator="chain", rows=3)
    bounds = continuation_nats(model, parts, estimator="count", samples=5, rows=7)
    for nats_1, nats_S in zip(found, bounds, strict=True):
        assert nats_1.tolist() == pytest.approx([float(nats_S.mean())], rel=1e-5)


# --- random masks


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("independent", [False, True])
def test_random_masks_come_to_all_masks(independent: bool, schedule: str):
    """Of a network whose conditionals do not fit together, so that the bound is no probability."""
    model = build()
    process = Masked(model.process.mask_id, *([Cosine()] if schedule == "cosine" else []))
    batch = rows_of([Pair("the cat", " sat on")], model.tokenizer, 24)[0]
    (truth,) = enumerated(model.denoiser, process, Full(), batch).tolist()
    how = {"samples": 3000, "rows": 500, "seed": 4, "independent": independent}
    nats_S = estimates(model.denoiser, process, Full(), batch, **how)[0]
    assert abs(float(nats_S.mean()) - truth) < 4 * sample_stderr(nats_S) < 0.1 * truth


def test_a_fixed_count_is_less_noisy():
    model = build()
    part = [continuation(model, "the cat", " sat on the mat. größer")]
    spread = {
        name: float(continuation_nats(model, part, estimator=name, samples=256)[0].std()) for name in ("count", "elbo")
    }
    assert spread["count"] < spread["elbo"]


# --- what is measured


@pytest.mark.parametrize("kind", ["masked", "uniform", "autoregressive"])
def test_it_is_what_evaluate_says_of_the_same_row(kind: str):
    model = build(kind)
    one = continuation(model, "the cat", " sat on the mat")
    batch = rows_of([Pair("the cat", " sat on the mat")], model.tokenizer, 24)[0]
    end = 0, len(one.before) + len(one.tokens)  # of the text, which is not there for the harness
    batch.editable_BL[end], batch.position_BL[end], batch.document_BL[end] = False, -1, -1
    truth = likelihood(model.denoiser, model.process, model.layout, batch, 1, samples=6, seed=5)
    (nats_S,) = continuation_nats(model, [one], samples=6, seed=5)
    assert float(nats_S.mean()) == pytest.approx(truth.nats_per_token * truth.tokens, rel=1e-12)
    assert len(nats_S) == truth.samples == (1 if kind == "autoregressive" else 6)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("autoregressive", ["exact"]), ("masked", ["auto", "count", "elbo", "chain"]), ("uniform", ["auto", "elbo"])],
)
def test_neighbours_and_batch_size_change_nothing(kind: str, names: list[str]):
    model = build(kind)
    texts = [("the cat", " sat on"), ("", "the mat."), ("größer, am", " a"), ("the", " cat sat on the mat sat on")]
    parts = [continuation(model, *text, noise=i) for i, text in enumerate(texts)]
    for name in names:
        how = {"estimator": name, "samples": 9, "seed": 2}
        together = continuation_nats(model, parts, rows=8, **how)
        for i, part in enumerate(parts):
            (alone,) = continuation_nats(model, [part], rows=1, **how)
            assert torch.allclose(alone, together[i], rtol=1e-13, atol=0)
            single = name in ("exact", "chain") or (name == "auto" and kind == "masked" and len(part.tokens) < 4)
            assert len(alone) == (1 if single else 9)


def test_equal_noise_cancels_between_continuations_and_other_noise_does_not():
    model = build()
    twice = [continuation(model, "the cat", " sat on the mat", noise=7)] * 2
    one, other = continuation_nats(model, twice, samples=8)
    assert torch.equal(one, other)
    (third,) = continuation_nats(model, [replace(twice[0], noise=8)], samples=8)
    assert not torch.equal(one, third)


def test_continuations_that_are_compared_are_measured_in_the_same_way():
    model = build()
    short = continuation(model, "the cat", " a")
    assert passes(model, short, "auto", 8) == 2 ** len(short.tokens) - 1 < 8
    long = replace(short, longest=9)
    assert passes(model, long, "auto", 8) == 8 and len(continuation_nats(model, [long], samples=8)[0]) == 8
    assert passes(model, short, "chain", 8) == len(short.tokens)
    assert passes(build("autoregressive"), short, "auto", 8) == 1


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("autoregressive", "count", "'count' is not for the autoregressive process; use auto or exact"),
        ("masked", "exact", "'exact' is not for the masked process; use auto or count or elbo or chain"),
        ("uniform", "chain", "'chain' is not for the uniform process; use auto or elbo"),
        ("masked", "guess", "expected one of auto, exact, count, elbo, chain, got 'guess'"),
    ],
)
def test_an_estimator_that_makes_no_sense_is_refused(kind: str, name: str, message: str):
    model = build(kind)
    with pytest.raises(ConfigError, match=f"^estimator: {message}$"):
        check_estimator(model, name)
    assert check_estimator(model, "auto") in ESTIMATORS
