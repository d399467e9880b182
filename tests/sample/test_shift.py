"""A masked network that predicts from the place before, as the autoregressive one did that it was made from."""

import numpy as np
import pytest
import torch
from decoding import END, finish, small_network
from torch import Tensor

from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import estimates, likelihood, noised_rows
from sfumato.model.layout import Block, Causal, Full, Layout
from sfumato.model.transformer import Transformer
from sfumato.process import Autoregressive, Masked
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order
from sfumato.sample.reuse import Reuse

MASK, START = 0, 3
PROCESS = Masked(MASK, shift=1)
PROMPT = [START, 7, 12, 9, 20]


def logits_before(network: Transformer, text_L: list[int], begin: int, size: int) -> Tensor:
    """What each place says of the next one, (L, V); blocks of `size` before `begin` are finished, 0 = no blocks."""
    place_1L = torch.arange(len(text_L))[None]
    where, layout = Where(place_1L, None), Full()
    if size:
        where, layout = Where(place_1L, None, place_1L // size, place_1L < begin), Block()
    return network.readout(network.encode(torch.tensor([text_L]), where=where, layout=layout)[0])


def written_slowly(network: Transformer, text: list[int], size: int) -> tuple[int, ...]:
    """The surest token of the active block first, one a step, and nothing kept from step to step."""
    ends = text[-1] == MASK
    while MASK in text:
        begin = text.index(MASK) // size * size if size else 0
        end = min(begin + size, len(text)) if size else len(text)
        open_O = [i for i in range(end) if text[i] == MASK]
        logits_OV = logits_before(network, text[:end], begin, size)[[max(0, i - 1) for i in open_O]]
        if not ends:  # text is fixed behind it
            logits_OV[:, END] = -torch.inf
        p_OV = logits_OV.softmax(dim=-1)
        best = int(p_OV.amax(dim=-1).argmax())
        text[open_O[best]] = int(p_OV[best].argmax())
    return tuple(text)


@pytest.mark.parametrize(
    ("layout", "block", "reuse"),
    [
        (Full(), 0, Reuse("none")),
        (Full(), 0, Reuse("prefix", refresh=1)),
        (Full(), 0, Reuse("dual", refresh=1)),
        *((Block(), block, Reuse(name)) for block in (1, 4, 5, 8) for name in ("none", "exact")),
    ],
    ids=lambda value: value.name if isinstance(value, Reuse) else None,
)
@pytest.mark.parametrize("prompt", [PROMPT, [MASK, 12, 9]], ids=["prompt", "nothing"])
def test_the_decoder_reads_the_place_before(layout: Layout, block: int, reuse: Reuse, prompt: list[int]):
    """A row that begins with nothing, too: its first place stands for itself, as in Dream."""
    network = small_network()
    decoder = Decoder(network, PROCESS, layout, end_id=END, device="cpu", reuse=reuse)
    lengths, fixed = (13, 4, 9), [] if layout.name == "block" else [5]  # a block sees nothing to its right
    requests = [
        Request(
            [*prompt, *[MASK] * n, *fixed],
            [token == MASK for token in prompt] + [True] * n + [False] * len(fixed),
            Order("confidence"),
            4 * n,  # so many that each writes one
            0,
            block=block,
        )
        for n in lengths
    ]
    for n, row in zip(lengths, finish(decoder, requests), strict=True):
        assert _until_end(row) == _until_end(written_slowly(network, [*prompt, *[MASK] * n, *fixed], block))


def _until_end(row: tuple[int, ...]) -> tuple[int, ...]:
    """What counts: behind the end of the text the decoder writes nothing but ends."""
    return row[: row.index(END) + 1] if END in row else row


@pytest.mark.parametrize("layout", [Full(), Block(1), Block(3), Block(4)], ids=["full", "1", "3", "4"])
@pytest.mark.parametrize("begun", [True, False], ids=["start", "nothing"])
def test_the_likelihood_is_that_of_one_forward_a_token(layout: Layout, begun: bool):
    network, length = small_network(), 11
    generator = torch.Generator().manual_seed(0)
    tokens_BL = torch.randint(4, 24, (3, length), generator=generator)
    if begun:
        tokens_BL[:, 0] = START
    position_BL = torch.arange(length).expand_as(tokens_BL)
    batch = Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL >= begun)
    place_B, samples = torch.arange(6), 2
    nats_B = estimates(network, PROCESS, layout, batch, samples=samples).flatten()
    row_B, sample_B = place_B // samples, place_B % samples
    noised, _ = noised_rows(PROCESS, layout, batch.select(row_B), row_B, sample_B, samples, 0)
    expected_B = torch.zeros(6, dtype=torch.float64)
    for index in noised.index_N.tolist():
        row, i = divmod(index, length)
        size = layout.size if isinstance(layout, Block) else 0
        begin, end = (i // size * size, min(i // size * size + size, length)) if size else (0, length)
        text = [*noised.clean_BL[row, :begin].tolist(), *noised.inputs_BL[row, begin:end].tolist()]
        if size and i == begin and i:
            text = text[:begin]  # the block before it knows nothing of what comes
        logp_V = logits_before(network, text, begin, size)[max(0, i - 1)].log_softmax(dim=-1)
        expected_B[row] -= noised.weight_BL[row, i] * logp_V[noised.clean_BL[row, i]]
    torch.testing.assert_close(nats_B, expected_B, rtol=1e-6, atol=1e-9)


def test_documents_that_begin_with_nothing_are_packed_and_scored_as_if_they_were_alone():
    """The first place of a document is not predicted by the last one of the document before it."""
    network = small_network()
    texts = [np.array(text) for text in ([5, 6, 7, 8, END], [9, 10, END], [11, 12, 13, END])]
    tokens_BL = torch.tensor([np.concatenate(texts).tolist()])
    lengths = torch.tensor([len(text) for text in texts])
    document_BL = torch.repeat_interleave(torch.arange(3), lengths)[None]
    position_BL = torch.cat([torch.arange(n) for n in lengths])[None]
    where = Where(position_BL, document_BL)
    noised = PROCESS.corrupt(
        tokens_BL,
        torch.full((1, 1), 0.7, dtype=torch.float64),
        editable_BL=torch.ones_like(tokens_BL, dtype=torch.bool),
        seeds_B=torch.tensor([5]),
    )
    assert {0, 5}.issubset(noised.index_N.tolist())
    hidden_ND = network.encode(noised.inputs_BL, where=where, layout=Full(), read_N=noised.read_N(where, 1))
    together_NV, begin = network.readout(hidden_ND), 0
    for text in texts:
        alone_LV = logits_before(network, noised.inputs_BL[0, begin : begin + len(text)].tolist(), 0, 0)
        for n, index in enumerate(noised.index_N.tolist()):
            if begin <= index < begin + len(text):
                torch.testing.assert_close(together_NV[n], alone_LV[max(0, index - begin - 1)])
        begin += len(text)


def test_left_to_right_the_first_place_of_a_row_has_nothing_before_it():
    decoder = Decoder(small_network(), Autoregressive(), Causal(), end_id=END, device="cpu")
    with pytest.raises(ValueError, match="the first token of a row cannot be written"):
        decoder.add(Request([MASK] * 3, [True] * 3, LeftToRight(), 3, 0))


def test_left_to_right_a_first_token_that_nothing_predicts_is_not_scored():
    network = small_network()
    tokens_BL = torch.tensor([[7, 12, 9, END]])
    position_BL = torch.arange(4)[None]
    batch = Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), torch.ones_like(tokens_BL, dtype=torch.bool))
    found = likelihood(network, Autoregressive(), Causal(), batch, 3)
    where = Where(position_BL, None)
    log_p_LV = network.readout(network.encode(tokens_BL, where=where, layout=Causal())[0]).log_softmax(dim=-1)
    expected = -sum(float(log_p_LV[i - 1, tokens_BL[0, i]]) for i in range(1, 4))
    assert found.tokens == 3 and found.nats_per_token == pytest.approx(expected / 3)
