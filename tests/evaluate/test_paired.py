"""Differences of two models under the same noise."""

import math

import pytest
import torch
from bundles import make

from sfumato.data.batches import rows_of
from sfumato.evaluate.paired import difference, nats_of
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer

TEXTS = [f"the {who} saw {n} birds" for n in range(12) for who in ("cat", "dog")]


@pytest.fixture(scope="module")
def models():
    tokenizer = Tokenizer.train(TEXTS, 280)
    old, new = make(tokenizer), make(tokenizer)
    with torch.no_grad():
        for parameter in new.denoiser.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return LanguageModel(old), LanguageModel(new)


@pytest.fixture(scope="module")
def batch(models):
    return rows_of(TEXTS, models[0].tokenizer, 24)[0]


def test_a_model_differs_from_itself_by_nothing(models, batch):
    nats_RS = nats_of(models[0], batch, seed=1)
    found = difference(nats_RS, nats_of(models[0], batch, seed=1), batch.editable_BL.sum(dim=1))
    assert (found.difference, found.stderr) == (0.0, 0.0) and found.old == found.new > 0
    assert found.rows == len(batch.tokens_BL)


def test_shared_noise_makes_a_small_difference_visible(models, batch):
    (old, new), tokens_R = models, batch.editable_BL.sum(dim=1)
    paired = difference(nats_of(old, batch, samples=4), nats_of(new, batch, samples=4), tokens_R)
    apart = difference(nats_of(old, batch, samples=4), nats_of(new, batch, samples=4, seed=9), tokens_R)
    assert paired.stderr < 0.3 * apart.stderr
    many = difference(nats_of(old, batch, samples=64), nats_of(new, batch, samples=64), tokens_R)
    assert abs(paired.difference - many.difference) < 4 * math.hypot(paired.stderr, many.stderr)


def test_rows_of_a_group_say_the_same_thing_once():
    """Repeating everything makes nothing surer; without groups it seems to."""
    chance = torch.Generator().manual_seed(0)
    old_RS, new_RS = (torch.randn(12, 4, generator=chance, dtype=torch.float64) for _ in range(2))
    tokens_R = torch.arange(1, 13)
    once = difference(old_RS, new_RS, tokens_R)
    repeated = old_RS.repeat(5, 1), new_RS.repeat(5, 1), tokens_R.repeat(5)
    again = difference(*repeated, torch.arange(12).repeat(5))
    assert again.rows == once.rows == 12 and again.stderr == pytest.approx(once.stderr)
    assert again.difference == pytest.approx(once.difference)
    assert difference(*repeated).stderr < 0.5 * once.stderr
