import itertools
import math

import pytest
import torch
from oracle import LENGTH, MASK, START, VOCABULARY, WORDS, Oracle

from sfumato.canvas import Where
from sfumato.model.layout import Causal, Full


def where(rows: int, length: int = LENGTH + 1) -> Where:
    return Where(torch.arange(length).expand(rows, length), None)


def test_conditionals_chain_to_the_joint_in_every_order(oracle: Oracle) -> None:
    for order in itertools.permutations(range(1, LENGTH + 1)):
        inputs_TL = torch.full_like(oracle.rows_TL, MASK)
        total_T = torch.zeros(len(inputs_TL), dtype=torch.float64)
        for place in order:
            logits_TV = oracle.readout(oracle.encode(inputs_TL, where=where(len(inputs_TL)), layout=Full())[:, place])
            total_T += logits_TV.log_softmax(dim=1).gather(1, oracle.rows_TL[:, place, None]).squeeze(1)
            inputs_TL[:, place] = oracle.rows_TL[:, place]
        torch.testing.assert_close(total_T.exp(), oracle.probability_T, rtol=1e-12, atol=0)


def test_causal_conditionals_chain_to_the_joint_and_ignore_what_comes_later(oracle: Oracle) -> None:
    rows_TL = oracle.rows_TL
    hidden_TLV = oracle.encode(rows_TL, where=where(len(rows_TL)), layout=Causal())
    log_TLV = oracle.readout(hidden_TLV[:, :-1].flatten(0, 1)).log_softmax(dim=1).view(-1, LENGTH, VOCABULARY)
    total_T = log_TLV.gather(2, rows_TL[:, 1:, None]).sum(dim=(1, 2))
    torch.testing.assert_close(total_T.exp(), oracle.probability_T, rtol=1e-12, atol=0)
    cut = oracle.encode(rows_TL[:, :3], where=where(len(rows_TL), 3), layout=Causal())
    assert torch.equal(cut, hidden_TLV[:, :3])


def test_padding_changes_nothing(oracle: Oracle) -> None:
    rows_TL = oracle.rows_TL
    padded = torch.nn.functional.pad(rows_TL, (0, 2))
    position = torch.nn.functional.pad(where(len(rows_TL)).position_BQ, (0, 2), value=-1)
    hidden = oracle.encode(padded, where=Where(position, None), layout=Full())
    assert torch.equal(hidden[:, :-2], oracle.encode(rows_TL, where=where(len(rows_TL)), layout=Full()))


def test_it_answers_only_where_it_is_read(oracle: Oracle) -> None:
    rows_TL, read_N = oracle.rows_TL, torch.tensor([3, 17, 400])
    hidden = oracle.encode(rows_TL, where=where(len(rows_TL)), layout=Full())
    some = oracle.encode(rows_TL, where=where(len(rows_TL)), layout=Full(), read_N=read_N)
    assert torch.equal(some, hidden.flatten(0, 1)[read_N])


def test_only_words_are_ever_written(oracle: Oracle) -> None:
    hidden = oracle.encode(torch.full((1, 5), MASK), where=where(1), layout=Full())[0]
    p = oracle.readout(hidden[1:]).softmax(dim=1)
    assert p[:, [MASK, START]].eq(0).all() and p[:, :WORDS].gt(0).all()


def test_draws_follow_the_distribution(oracle: Oracle) -> None:
    count = 200_000
    share_T = oracle.frequency(oracle.draw(count)[:, 1:])
    chi_square = float(count * ((share_T - oracle.probability_T) ** 2 / oracle.probability_T).sum())
    assert chi_square < 80 + 4 * math.sqrt(160)
    assert oracle.probability_T.sum() == pytest.approx(1, abs=1e-12)
    assert oracle.entropy < math.log(81)
