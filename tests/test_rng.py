import math

import pytest
import torch
from torch import Tensor

from sfumato import rng

COUNT = 1 << 17
PINNED = -6605112423556548191  # what mix(1, 2, 3) has always been


@pytest.fixture(scope="module")
def draws() -> Tensor:
    return rng.uniform(3, torch.arange(COUNT))


def test_draws_are_float64_strictly_between_0_and_1(draws: Tensor) -> None:
    assert draws.dtype == torch.float64
    assert draws.min() > 0 and draws.max() < 1
    extremes = torch.tensor([-(2**63), -1, 0, 1, 2**63 - 1])
    hashed = rng.uniform(extremes[:, None], extremes)
    assert hashed.min() > 0 and hashed.max() < 1 and hashed.unique().numel() == 25


def test_not_even_the_largest_hash_becomes_1() -> None:
    largest, smallest = 3558559446808474027, 7046029254386353131  # found by running the hash backwards
    assert rng.mix(largest).item() == -1 and rng.mix(smallest).item() == 0
    assert 0 < rng.uniform(smallest).item() < 1e-15 and 1 - 1e-15 < rng.uniform(largest).item() < 1


def test_mean_and_variance_are_those_of_the_uniform_distribution(draws: Tensor) -> None:
    assert abs(draws.mean() - 0.5) < 4 * math.sqrt(1 / 12 / COUNT)
    assert abs(draws.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / COUNT)


# Every way of counting must give uniform numbers: consecutive, in big strides, or only in the first counter.
@pytest.mark.parametrize(
    "counters",
    [
        (0, torch.arange(COUNT)),
        (torch.arange(COUNT), 0),
        (torch.arange(COUNT) * 2**40, 5, 7),
        (1, torch.arange(COUNT) * 2**20, 2),
        (torch.arange(COUNT) - COUNT, torch.arange(COUNT)),
    ],
)
def test_chi_square_of_16_bins(counters: tuple[Tensor | int, ...]) -> None:
    draws = rng.uniform(*counters)
    for bits in (draws, draws * 2**12 % 1, draws * 2**40 % 1):  # the high, the middle and the low bits
        seen = torch.histc(bits, bins=16, min=0, max=1)
        chi_square = float(((seen - COUNT / 16) ** 2 / (COUNT / 16)).sum())
        assert chi_square < 15 + 5 * math.sqrt(30)


@pytest.mark.parametrize("lag", [1, 2, 16, 256])
def test_neighbouring_counters_are_uncorrelated(draws: Tensor, lag: int) -> None:
    pairs = torch.stack((draws[:-lag], draws[lag:]))
    assert abs(torch.corrcoef(pairs)[0, 1]) < 4 / math.sqrt(COUNT)


def test_the_counters_are_independent_of_one_another() -> None:
    grid = rng.uniform(torch.arange(64)[:, None], torch.arange(2048)) - 0.5
    across = (grid[1:] * grid[:-1]).mean() * 12
    swapped = (grid[:, :64] * grid[:, :64].T).triu(1).sum() * 12 / (64 * 63 / 2)
    assert abs(across) < 4 / math.sqrt(63 * 2048)
    assert abs(swapped) < 4 / math.sqrt(64 * 63 / 2)


def test_a_draw_does_not_depend_on_its_batch_neighbours() -> None:
    seeds = torch.tensor([11, -7, 2**62])
    whole = rng.uniform(seeds[:, None], torch.arange(100)[None, :], 2)
    for row, seed in enumerate(seeds.tolist()):
        assert torch.equal(rng.uniform(seed, torch.arange(100), 2), whole[row])
    assert torch.equal(rng.uniform(seeds[[2, 0], None], torch.arange(40, 60), 2), whole[[2, 0], 40:60])


def test_the_numbers_are_the_same_in_every_version() -> None:
    # Runs, checkpoints and published samples rest on these; the first one is SplitMix64's own first output for seed 0.
    assert rng.mix(0).item() == 0xE220A8397B1DCDAF - 2**64
    assert rng.mix(1, 2, 3).item() == PINNED
    assert rng.uniform(1, 2, 3).item() == ((PINNED % 2**64 >> 11) + 0.5) * 2.0**-53


def test_mixing_never_merges_two_counters() -> None:
    assert rng.mix(5, torch.arange(COUNT)).unique().numel() == COUNT
    assert rng.mix(torch.arange(COUNT), 5).unique().numel() == COUNT
