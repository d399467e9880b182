"""Block diffusion against the truth: the law of what it writes and its bound, with the exact conditionals."""

import pytest
import torch
from decoding import agree, oracle_texts, small_network, variation
from oracle import LENGTH, MASK, Oracle

from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import estimates
from sfumato.model.layout import Block, Layout, two_streams
from sfumato.process import Cosine, Masked
from sfumato.sample.ancestral import Ancestral
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.reuse import Reuse


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("cache", ["none", "exact"])
def test_one_word_at_a_time_is_exact_whatever_the_blocks(oracle: Oracle, block: int, cache: str):
    texts = oracle_texts(oracle, LeftToRight(), 4, 3000, layout=Block(), block=block, reuse=Reuse(cache))
    assert agree(oracle, texts, oracle.probability_T)


def test_smaller_blocks_are_closer_to_the_truth_at_equal_steps(oracle: Oracle):
    def distance(block: int, steps: int) -> float:
        texts = oracle_texts(oracle, Ancestral(), steps, 6000, layout=Block(), block=block)
        return variation(oracle.frequency(texts), oracle.probability_T)

    # blocks begin at the start token: of 5 places, of 3 ({start, 1, 2}, {3, 4}), of 2 ({start, 1}, {2, 3}, {4})
    assert distance(2, 3) < distance(5, 3) - 0.03
    assert distance(3, 40) < distance(3, 2) - 0.03


def all_texts(oracle: Oracle) -> Batch:
    rows_TL = oracle.rows_TL
    position_TL = torch.arange(LENGTH + 1).expand_as(rows_TL)
    return Batch(rows_TL, position_TL, torch.zeros_like(rows_TL), position_TL > 0)


def bound(oracle: Oracle, layout: Layout, process: Masked, samples: int = 200) -> tuple[float, float]:
    """The mean of the bound's estimate over all texts, each at its probability; and its standard error."""
    nats_TS = estimates(oracle, process, layout, all_texts(oracle), samples=samples, rows=1 << 16)
    error = (nats_TS.var(dim=1) / samples * oracle.probability_T**2).sum().sqrt()
    return float((nats_TS.mean(dim=1) * oracle.probability_T).sum()), float(error)


@pytest.mark.parametrize(
    ("size", "process"),
    [
        *((size, Masked(MASK)) for size in (1, 2, 3, 5)),
        (3, Masked(MASK, Cosine(), "count")),  # not of the schedule or the objective that it was trained with
    ],
    ids=["1", "2", "3", "5", "cosine-count"],
)
def test_the_bound_with_exact_conditionals_is_the_entropy(oracle: Oracle, size: int, process: Masked):
    found, error = bound(oracle, Block(size), process)
    assert error < 0.03
    assert found == pytest.approx(oracle.entropy, abs=4 * error + 1e-9)  # a block of one word leaves nothing to chance


def test_blocks_of_one_are_as_many_forwards_of_a_prefix_and_a_mask():
    """Block layout with b = 1 and full masking: what an autoregressive model would be asked, in one pass."""
    network, clean_BL = small_network(), torch.tensor([[3, 5, 9, 11, 4, 17, 8]])
    position_BL = torch.arange(clean_BL.shape[1])[None]
    where = Where(position_BL, None, position_BL)
    noised_BL = torch.zeros_like(clean_BL)
    t_BL, index_N = torch.ones_like(clean_BL).double(), torch.arange(clean_BL.shape[1])
    inputs, both, t_BQ, read_N = two_streams(noised_BL, clean_BL, where, t_BL, index_N)
    together_NV = network.readout(network.encode(inputs, where=both, layout=Block(), t_BQ=t_BQ, read_N=read_N))
    for i in range(clean_BL.shape[1]):
        prefix = torch.cat((clean_BL[:, :i], noised_BL[:, :1]), dim=1)
        place = position_BL[:, : i + 1]
        alone = network.encode(
            prefix, where=Where(place, None, place, place < i), layout=Block(), t_BQ=t_BL[:, : i + 1]
        )
        assert torch.allclose(network.readout(alone[0, -1:]), together_NV[i : i + 1], atol=1e-12)


def test_later_blocks_change_nothing_before_them():
    network, generator = small_network(), torch.Generator().manual_seed(0)
    clean_BL = torch.randint(4, 24, (1, 12), generator=generator)
    other_BL = clean_BL.clone()
    other_BL[:, 8:] = torch.randint(4, 24, (1, 4), generator=generator)
    position_BL = torch.arange(12)[None]
    where = Where(position_BL, None, position_BL // 4)
    masked_BL = position_BL % 2 == 0

    def logits(text_BL: torch.Tensor) -> torch.Tensor:
        noised_BL = torch.where(masked_BL, 0, text_BL)
        parts = two_streams(noised_BL, text_BL, where, torch.ones(1, 12), torch.arange(8))
        inputs, both, t_BQ, read_N = parts
        return network.readout(network.encode(inputs, where=both, layout=Block(), t_BQ=t_BQ, read_N=read_N))

    assert torch.equal(logits(clean_BL), logits(other_BL))
