"""The categorical draw is exact: frequencies, the tail, forbidden tokens, temperature, top-k and top-p.

Shape letters: B rows, L canvas length, N scored positions, M draws from each, V vocabulary.
"""

import math
from dataclasses import replace

import pytest
import torch

from sfumato import rng
from sfumato.canvas import Canvas
from sfumato.sample.categorical import Draw, categorical, keep_top

TINIEST, LARGEST = 2.0**-54, 1 - 2.0**-53  # the ends of what `rng.uniform` gives
INF = float("inf")


def logits(*probabilities: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log().to(dtype)


def u(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def zipf_V() -> torch.Tensor:
    """Zipf's law over 50 000 tokens in shuffled order, float64 probabilities."""
    p_V = 1 / torch.arange(1, 50_001, dtype=torch.float64)
    order_V = rng.uniform(torch.arange(50_000), 7).argsort()
    return p_V[order_V] / p_V.sum()


@pytest.fixture(scope="module")
def zipf_counts_V(zipf_V: torch.Tensor) -> torch.Tensor:
    """How often each token comes in 2**21 draws from float32 logits."""
    logits_1V = zipf_V.log().float()[None]
    counts_V = torch.zeros(len(zipf_V), dtype=torch.int64)
    for chunk in range(16):
        u_1M = rng.uniform(torch.arange(2**17)[None], chunk)
        counts_V += torch.bincount(categorical(logits_1V, u_1M).flatten(), minlength=len(zipf_V))
    return counts_V


def test_the_head_of_a_50k_vocabulary_has_its_frequencies(zipf_V, zipf_counts_V):
    head = zipf_V.argsort(descending=True)[:500]
    total = int(zipf_counts_V.sum())
    observed = torch.cat((zipf_counts_V[head], total - zipf_counts_V[head].sum(0, keepdim=True))).double()
    expected = torch.cat((zipf_V[head], 1 - zipf_V[head].sum(0, keepdim=True))) * total
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert abs(chi_square - 500) < 4 * math.sqrt(2 * 500)


def test_the_tail_of_a_50k_vocabulary_is_not_truncated(zipf_V, zipf_counts_V):
    total = int(zipf_counts_V.sum())
    for rarest in (49_000, 40_000, 10_000, 1_000):
        tail = zipf_V.argsort()[:rarest]
        mass = float(zipf_V[tail].sum())
        assert abs(int(zipf_counts_V[tail].sum()) / total - mass) < 4 * math.sqrt(mass * (1 - mass) / total)


def test_the_drawn_tokens_have_the_entropy_of_the_distribution(zipf_V, zipf_counts_V):
    surprise_V = -zipf_V.log()
    entropy = float((zipf_V * surprise_V).sum())
    variance = float((zipf_V * surprise_V**2).sum()) - entropy**2
    total = int(zipf_counts_V.sum())
    drawn = float((zipf_counts_V * surprise_V).sum()) / total
    assert abs(drawn - entropy) < 4 * math.sqrt(variance / total)


def test_rare_tokens_are_kept_when_another_has_nearly_all_the_probability():
    # Float32 Gumbel noise never exceeds 16.64, so it could not draw anything below e^-17 of the best.
    rare = 1e-12
    p_1V = logits(1, *[rare] * 1000, dtype=torch.float32)
    inside = (1 + (torch.arange(1000).double() + 0.5) * rare) / (1 + 1000 * rare)
    assert categorical(p_1V, inside[None]).flatten().tolist() == list(range(1, 1001))


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    p_V = rng.uniform(torch.arange(300), 1)
    p_V[::7] = 0
    cumulative_V = (p_V / p_V.sum()).cumsum(0)
    below = [t for t in range(300) if p_V[t] > 0]
    middle = u(*[float(cumulative_V[t] - p_V[t] / p_V.sum() / 2) for t in below])
    assert categorical(p_V.log()[None], middle[None]).flatten().tolist() == below


def test_many_draws_from_one_row_are_those_of_many_equal_rows():
    p_NV = rng.uniform(torch.arange(64), 2).log()[None].expand(500, -1)
    u_N = rng.uniform(torch.arange(500), 3)
    assert torch.equal(categorical(p_NV, u_N), categorical(p_NV[:1], u_N[None])[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forbidden_tokens_are_never_drawn(dtype):
    p_1V = logits(0, 0.2, 0, 0, 0.5, 0.3, 0, dtype=dtype)
    u_1M = torch.cat((u(TINIEST, LARGEST), rng.uniform(torch.arange(100_000), 4)))[None]
    assert set(categorical(p_1V, u_1M).flatten().tolist()) == {1, 4, 5}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(20))
def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_possible_token(seed, dtype):
    logits_1V = (rng.uniform(torch.arange(1000), seed)[None] * 20 - 10).to(dtype)
    logits_1V[:, :3] = -INF
    logits_1V[:, -2:] = -INF
    assert categorical(logits_1V, u(TINIEST)).item() == 3
    assert logits_1V[0, categorical(logits_1V, u(LARGEST)).item()] > -INF


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_huge_and_shifted_logits_do_not_overflow(scale):
    logits_1V = torch.tensor([[scale, scale + 1, scale + 2]], dtype=torch.float32)
    p_V = logits_1V[0].double().softmax(0)
    counts_V = torch.bincount(
        categorical(logits_1V, rng.uniform(torch.arange(100_000)[None], 5)).flatten(), minlength=3
    )
    assert float((counts_V / 100_000 - p_V).abs().max()) < 0.006


def test_bfloat16_logits_are_drawn_as_the_numbers_they_are():
    # Differences of bfloat16 numbers are no bfloat16 numbers: rounded to one, these would be off by a factor of 1.06.
    logits_1V = torch.tensor([[20.125, 17.5, 3.03125, 0.2099609375]], dtype=torch.bfloat16).repeat(1, 8)
    u_1M = rng.uniform(torch.arange(10_000)[None], 6)
    assert torch.equal(categorical(logits_1V, u_1M), categorical(logits_1V.double(), u_1M))
    u_1M = 1 - 1e-7 * u_1M
    assert torch.equal(categorical(logits_1V, u_1M), categorical(logits_1V.double(), u_1M))


# --- top-k and top-p


def kept(logits_1V: torch.Tensor, top_k: int = 0, top_p: float = 1.0) -> set[int]:
    result_1V = keep_top(logits_1V, torch.tensor([top_k]), u(top_p))
    stay = result_1V[0] > -INF
    assert torch.equal(result_1V[0][stay], logits_1V[0][stay])  # what stays is not changed
    return set(stay.nonzero().flatten().tolist())


P = (0.05, 0.4, 0.15, 0.3, 0.1)  # in order: 1, 3, 2, 4, 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (1, 1.0, {1}),
        (3, 1.0, {1, 2, 3}),
        (5, 1.0, {0, 1, 2, 3, 4}),
        (99, 1.0, {0, 1, 2, 3, 4}),
        (0, 0.0, {1}),
        (0, 1e-9, {1}),
        (0, 0.39, {1}),
        (0, 0.41, {1, 3}),
        (0, 0.69, {1, 3}),
        (0, 0.71, {1, 2, 3}),
        (0, 0.94, {1, 2, 3, 4}),
        (0, 0.96, {0, 1, 2, 3, 4}),
        (2, 0.96, {1, 3}),
        (4, 0.41, {1, 3}),
    ],
)
def test_top_k_and_top_p_keep_exactly_the_smallest_sets(dtype, top_k, top_p, expected):
    assert kept(logits(*P, dtype=dtype), top_k, top_p) == expected


def test_a_set_that_reaches_p_exactly_is_enough():
    assert kept(logits(0.5, 0.25, 0.125, 0.125), top_p=0.5) == {0}
    assert kept(logits(0.25, 0.25, 0.25, 0.25), top_p=0.5) == {0, 1}


def test_of_equal_tokens_the_first_stay():
    assert kept(logits(0.1, 0.3, 0.3, 0.3), top_k=2) == {1, 2}
    assert kept(logits(0.1, 0.3, 0.3, 0.3), top_p=0.55) == {1, 2}
    assert kept(logits(0.25, 0.25, 0.25, 0.25), top_k=1) == {0}


def test_forbidden_tokens_stay_forbidden_within_the_limits():
    assert kept(logits(0, 0.6, 0, 0.4), top_k=3) == {1, 3}
    assert kept(logits(0, 0.6, 0, 0.4), top_p=0.9999) == {1, 3}
    assert kept(logits(0, 0, 1, 0), top_k=1, top_p=0.1) == {2}


def test_top_p_of_1_drops_nothing_even_where_the_sum_rounds_below_1():
    p_V = rng.uniform(torch.arange(5000), 8) * 1e-6
    p_V[0] = 1
    assert len(kept(p_V.log()[None], top_p=1.0)) == 5000


# --- settings of each row


def canvas(rows: int, length: int) -> Canvas:
    position_BL = torch.arange(length).expand(rows, length).clone()
    yes_BL = torch.ones(rows, length, dtype=torch.bool)
    return Canvas(torch.zeros(rows, length, dtype=torch.int64), position_BL, yes_BL, yes_BL, torch.ones(rows).double())


def draw(temperature: list[float], top_k: list[int], top_p: list[float], seeds: list[int]) -> Draw:
    return Draw(
        u(*temperature),
        torch.tensor(top_k),
        u(*top_p),
        torch.tensor(seeds),
        random=any(t > 0 for t in temperature),
        filtered=any(top_k) or any(p < 1 for p in top_p),
    )


LENGTH = 20_000
PLACES = torch.arange(LENGTH)


def test_rows_of_one_batch_keep_their_own_settings_and_draws():
    settings = [(1.0, 0, 1.0, 11), (0.0, 0, 1.0, 12), (0.5, 0, 1.0, 13), (1.0, 2, 1.0, 14), (1.0, 0, 0.6, 15)]
    settings.append((2.0, 3, 0.9, 16))
    together = draw(*map(list, zip(*settings, strict=True)))
    logits_NV = logits(*P).expand(len(settings) * LENGTH, -1)
    drawn_BL = together(logits_NV, torch.arange(len(logits_NV)), canvas(len(settings), LENGTH)).view(-1, LENGTH)
    for row, (temperature, top_k, top_p, seed) in enumerate(settings):
        alone = draw([temperature], [top_k], [top_p], [seed])
        assert torch.equal(drawn_BL[row], alone(logits_NV[:LENGTH], PLACES, canvas(1, LENGTH)))
    p_V = u(*P)
    expected = [p_V, u(0, 1, 0, 0, 0), p_V**2 / (p_V**2).sum(), u(0, 4, 0, 3, 0) / 7, u(0, 4, 0, 3, 0) / 7]
    hot = p_V.sqrt() * u(0, 1, 1, 1, 0)
    expected.append(hot / hot.sum())
    for row, wanted_V in enumerate(expected):
        frequency_V = torch.bincount(drawn_BL[row], minlength=5) / LENGTH
        assert float((frequency_V - wanted_V).abs().max()) < 4 * math.sqrt(0.25 / LENGTH)


@pytest.mark.parametrize("neighbour", [0.0, 1.0])
def test_temperature_0_takes_the_most_probable_token(neighbour):
    logits_NV = rng.uniform(torch.arange(2 * 50 * 30), 9).view(100, 30).float()
    drawn_N = draw([0.0, neighbour], [0, 0], [1.0, 1.0], [1, 2])(logits_NV, torch.arange(100), canvas(2, 50))
    assert torch.equal(drawn_N[:50], logits_NV[:50].argmax(dim=1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_is_never_drawn_however_probable_it_is(temperature):
    logits_NV = torch.tensor([[9.0, 1.0, 0.0]]).expand(500, -1)
    one = replace(draw([temperature], [2], [1.0], [1]), mask_id=0)
    index_N = torch.arange(500)
    assert set(one(logits_NV, index_N, canvas(1, 500)).tolist()) == ({1} if temperature == 0 else {1, 2})
    assert bool(one.prediction(logits_NV, index_N, canvas(1, 500))[:, 0].isneginf().all())
    assert float(logits_NV[0, 0]) == 9.0
    assert one(logits_NV[:0, :1], index_N[:0], canvas(1, 500)).tolist() == []


def test_filtered_logits_have_temperature_and_filters_at_temperature_0_too():
    logits_NV = torch.tensor([[3.0, 2.0, 1.0]]).expand(2, -1)
    found_NV = draw([0.0, 0.5], [2, 2], [1.0, 1.0], [1, 2]).filtered_logits(logits_NV, torch.arange(2), canvas(2, 1))
    assert found_NV.tolist() == [[3.0, 2.0, -math.inf], [6.0, 4.0, -math.inf]]


def test_a_temperature_near_0_takes_the_most_probable_token():
    logits_NV = rng.uniform(torch.arange(50 * 30), 9).view(50, 30).float()
    drawn_N = draw([1e-12], [0], [1.0], [1])(logits_NV, torch.arange(50), canvas(1, 50))
    assert torch.equal(drawn_N, logits_NV.argmax(dim=1))


def test_bfloat16_logits_are_divided_by_the_temperature_without_rounding():
    logits_NV = torch.tensor([[9.8125, 9.75, 3.015625, -20.125]], dtype=torch.bfloat16).expand(LENGTH, -1)
    one = draw([0.7], [0], [1.0], [3])
    assert torch.equal(one(logits_NV, PLACES, canvas(1, LENGTH)), one(logits_NV.float(), PLACES, canvas(1, LENGTH)))


def test_a_draw_depends_on_seed_and_position_only():
    logits_NV = rng.uniform(torch.arange(40 * 9), 10).view(40, 9).log()
    first = draw([1.0, 1.0], [0, 0], [1.0, 1.0], [5, 6])(logits_NV, torch.arange(40), canvas(2, 20))
    swapped = draw([1.0, 1.0], [0, 0], [1.0, 1.0], [6, 5])(logits_NV.roll(20, 0), torch.arange(40), canvas(2, 20))
    assert torch.equal(first, swapped.roll(20))
    some = torch.tensor([3, 17, 22, 38])
    assert torch.equal(first[some], draw([1.0, 1.0], [0, 0], [1.0, 1.0], [5, 6])(logits_NV[some], some, canvas(2, 20)))
    longer = draw([1.0], [0], [1.0], [5])(logits_NV[:20], torch.arange(20), canvas(1, 30))
    assert torch.equal(first[:20], longer)
    other = draw([1.0], [0], [1.0], [7])(logits_NV[:20], torch.arange(20), canvas(1, 20))
    assert not torch.equal(first[:20], other)
