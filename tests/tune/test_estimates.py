"""Estimates of log-likelihoods against the truth, by enumeration.

Shape letters: B rows, L places in a row, T texts, V vocabulary.
"""

import itertools
import math

import pytest
import torch
from oracle import LENGTH, MASK, VOCABULARY, Oracle
from torch import Tensor

from sfumato.canvas import Where
from sfumato.config import ModelConfig
from sfumato.data.batches import Batch
from sfumato.model.layout import Block, Causal, Full, Layout
from sfumato.model.transformer import Transformer
from sfumato.process import Autoregressive, Gaussian, Insertion, Masked
from sfumato.tune.estimates import View, log_likelihoods, noisings

MASKED = Masked(MASK)
ROW = torch.tensor([[4, 2, 0, 1, 1]])  # the start, one word of a prompt, three of the response


def as_batch(tokens_BL: Tensor, prompt: int = 1) -> Batch:
    """One text a row, whose first `prompt` places are context."""
    position_BL = torch.arange(tokens_BL.shape[1]).expand(tokens_BL.shape)
    return Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL >= prompt)


def network(seed: int = 5, scale: float = 1.0) -> Transformer:
    """Random weights, of which none is zero, in float64."""
    config = ModelConfig(vocab_size=VOCABULARY, width=8, layers=1, heads=1, mlp_width=8, context=LENGTH + 1)
    built = Transformer(config, never_written=(MASK, 4)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=scale, generator=generator)
    return built.eval()


def exact(denoiser, layout: Layout, row_1L: Tensor, places: list[list[int]]) -> float:
    """The ELBO of a row by enumeration of all masks, each block of places given the clean text before it.

    Source: Ou et al. 2024 (RADD, 2406.03736, eq. 3.11): the mean over counts n of L / n times the mean over all sets of
    n places of the sum over them.
    """
    total = 0.0
    for block in places:
        for count in range(1, len(block) + 1):
            sets = list(itertools.combinations(block, count))
            for masked in sets:
                noised_1L = row_1L.clone()
                noised_1L[0, list(masked)] = MASK
                total += told(denoiser, layout, noised_1L, row_1L, masked) / len(sets) / count
    return total


def told(denoiser, layout: Layout, noised_1L: Tensor, row_1L: Tensor, places: tuple[int, ...]) -> float:
    """The sum of log p at some places."""
    length = row_1L.shape[1]
    position_1L = torch.arange(length)[None]
    inputs, where = noised_1L, Where(position_1L, torch.zeros_like(position_1L))
    if isinstance(layout, Block):
        block = position_1L // layout.size
        clean = torch.zeros_like(position_1L, dtype=torch.bool)
        where = Where(
            *(torch.cat(pair, 1) for pair in ((position_1L,) * 2, (0 * block,) * 2, (block,) * 2, (clean, ~clean)))
        )
        inputs = torch.cat((noised_1L, row_1L), dim=1)
    with torch.no_grad():
        hidden = denoiser.encode(inputs, where=where, layout=layout, read_N=torch.tensor(places))
        log_p_NV = denoiser.readout(hidden).log_softmax(dim=-1)
    return float(log_p_NV[range(len(places)), row_1L[0, list(places)]].sum())


@pytest.mark.parametrize(
    ("denoiser", "layout", "places"),
    [
        (Oracle(), Full(), [[2, 3, 4]]),
        (network(), Full(), [[2, 3, 4]]),
        (network(), Block(2), [[2, 3], [4]]),
    ],
    ids=["oracle", "network", "blocks"],
)
@pytest.mark.parametrize("samples", [1, 4])
def test_the_mean_over_seeds_is_the_exact_bound(denoiser, layout: Layout, places: list[list[int]], samples: int):
    view, truth = View(MASKED, layout), exact(denoiser, layout, ROW, places)
    rows = ROW.expand(500, -1)
    found = []
    with torch.no_grad():
        for seed in range(4):
            drawn = noisings(view, as_batch(rows, prompt=2), torch.arange(500), samples=samples, seed=seed)
            found.append(log_likelihoods(view, denoiser, drawn))
    estimate = torch.cat(found)
    stderr = float(estimate.std()) / math.sqrt(len(estimate))
    assert stderr < 0.1 * abs(truth)
    assert abs(float(estimate.mean()) - truth) < 4.5 * stderr


def test_left_to_right_is_exact():
    oracle = Oracle()
    view = View(Autoregressive(), Causal())
    drawn = noisings(view, as_batch(oracle.rows_TL), torch.arange(81), samples=8, seed=0)
    assert drawn.samples == 1
    torch.testing.assert_close(log_likelihoods(view, oracle, drawn), oracle.probability_T.log())


def test_prompts_are_neither_noised_nor_scored():
    view = View(MASKED, Full())
    drawn = noisings(view, as_batch(ROW.expand(50, -1), prompt=3), torch.arange(50), samples=4, seed=1)
    assert torch.equal(drawn.noised.inputs_BL[:, :3], ROW[:, :3].expand(200, -1))
    assert set((drawn.noised.index_N % 5).tolist()) == {3, 4}


def test_rows_of_one_number_share_their_noise_whatever_else_is_in_the_batch():
    view = View(MASKED, Full())
    drawn = noisings(view, as_batch(ROW.expand(4, -1)), torch.tensor([7, 3, 7, 4]), samples=2, seed=5)
    inputs = drawn.noised.inputs_BL.view(4, 2, -1)
    assert torch.equal(inputs[0], inputs[2]) and not torch.equal(inputs[0], inputs[1])
    alone = noisings(view, as_batch(ROW), torch.tensor([3]), samples=2, seed=5)
    assert torch.equal(alone.noised.inputs_BL, inputs[1])


def test_shared_noise_makes_the_difference_of_two_networks_vary_much_less():
    view, policy, reference = View(MASKED, Full()), network(5), network(5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():  # a policy after some tuning
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        batch, number = as_batch(ROW.expand(1000, -1)), torch.arange(1000)
        one, other = (noisings(view, batch, number, samples=2, seed=seed) for seed in (0, 1))
        of_policy = log_likelihoods(view, policy, one)
        shared = of_policy - log_likelihoods(view, reference, one)
        apart = of_policy - log_likelihoods(view, reference, other)
    assert float(shared.var()) < 0.1 * float(apart.var())


def test_more_levels_vary_less_than_more_masks_of_one_level():
    """Theorem 2 of VRPO, and more: levels are stratified."""
    view, denoiser = View(MASKED, Full()), network()
    with torch.no_grad():
        spread = []
        for samples in (1, 4):
            drawn = noisings(view, as_batch(ROW.expand(1000, -1)), torch.arange(1000), samples=samples, seed=0)
            spread.append(float(log_likelihoods(view, denoiser, drawn).var()))
    assert spread[1] < spread[0] / 4


@pytest.mark.parametrize("process", [Insertion(MASK), Gaussian(vocab_size=VOCABULARY, noise_scale=1.0)])
def test_noise_that_cannot_be_shared_is_refused(process):
    with pytest.raises(ValueError, match="two networks cannot share"):
        View(process, Full())
