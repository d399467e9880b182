"""Scores of single tokens: each once, the same masks whoever is asked, and exact where they can be.

Shape letters: B answers, L row length.
"""

from collections.abc import Sequence

import pytest
import torch
from oracle import LENGTH, MASK, VOCABULARY, Oracle
from torch import Tensor

from sfumato.config import ModelConfig
from sfumato.model.layout import Block, Causal, Full, Layout
from sfumato.model.transformer import Transformer
from sfumato.process import Autoregressive, Masked, Uniform
from sfumato.text.prompt import Row
from sfumato.text.tokenizer import Tokenizer
from sfumato.tune.estimates import View
from sfumato.tune.rollouts import Answers, answers_of
from sfumato.tune.token_scores import Masks, masks, token_log_probs

VIEW = View(Masked(MASK), Full())
SEEDS = torch.arange(6)


def answers(written: Sequence[int] = (2, 3, 4), scored: Sequence[int] = (2, 3), rows: int = 6) -> Answers:
    """Texts of the oracle: the start, one word of a prompt, and an answer that ended before the last place."""
    place = torch.arange(LENGTH + 1).expand(rows, -1)
    tokens_BL = torch.tensor([[4, 2, 0, 1, 1]]).expand(rows, -1)

    def chosen(places: Sequence[int]) -> Tensor:
        return torch.isin(place, torch.tensor(places))

    return Answers(tokens_BL, place, chosen(written), chosen(scored))


def network() -> Transformer:
    config = ModelConfig(vocab_size=VOCABULARY, width=8, layers=2, heads=1, mlp_width=8, context=LENGTH + 1)
    built, generator = Transformer(config, never_written=(MASK, 4)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=1.0, generator=generator)
    return built.double()


def scored_places(drawn: Masks) -> list[int]:
    return sorted((drawn.noised.index_N % (drawn.rows * (LENGTH + 1))).tolist())


@pytest.mark.parametrize("estimator", ["one_pass", "coupled"])
@pytest.mark.parametrize("layout", [Full(), Block(2)], ids=["full", "block"])
def test_every_token_is_scored_exactly_once(estimator: str, layout: Layout):
    asked = answers()
    drawn = masks(View(Masked(MASK), layout), asked, SEEDS, estimator=estimator)
    assert scored_places(drawn) == asked.scored_BL.flatten().nonzero().flatten().tolist()
    inputs_CL = drawn.noised.inputs_BL
    assert (inputs_CL.flatten()[drawn.noised.index_N] == MASK).all()
    assert (inputs_CL[:, 4] == MASK).all()  # nobody decided what follows an end
    log_p_BL = token_log_probs(View(Masked(MASK), layout), network(), drawn)
    assert torch.equal(log_p_BL != 0, asked.scored_BL)


def test_coupled_masks_are_complements():
    drawn = masks(VIEW, answers((1, 2, 3, 4), (1, 2, 3, 4), 200), torch.arange(200), estimator="coupled")
    first_BL, second_BL = (drawn.noised.inputs_BL == MASK).chunk(2)
    assert torch.equal(first_BL[:, 1:], ~second_BL[:, 1:])
    assert 0.4 < float(first_BL[:, 1:].double().mean()) < 0.6 and len(first_BL.unique(dim=0)) == 16


def test_one_pass_is_the_answer_behind_nothing_but_its_prompt():
    oracle = Oracle()
    drawn = masks(VIEW, answers((2, 3, 4), (2, 3, 4)), SEEDS, estimator="one_pass")
    log_p_BL = token_log_probs(VIEW, oracle, drawn)
    p_abc = oracle.joint[2] / oracle.joint[2].sum()
    exact = [float(p_abc.sum(dim=(1, 2))[0].log()), float(p_abc.sum(dim=(0, 2))[1].log())]
    assert log_p_BL[0, 2:4].tolist() == pytest.approx(exact)


def test_a_part_of_the_prompt_is_masked_in_one_pass():
    asked = answers(rows=500)
    hidden = masks(VIEW, asked, torch.arange(500), estimator="one_pass", prompt_masking=0.3).noised.inputs_BL
    assert (hidden[:, 0] == 4).all()
    assert abs(float((hidden[:, 1] == MASK).double().mean()) - 0.3) < 4.5 * (0.21 / 500) ** 0.5


def test_left_to_right_scores_are_exact():
    oracle, view = Oracle(), View(Autoregressive(), Causal())
    asked = answers((2, 3, 4), (2, 3, 4))
    log_p_BL = token_log_probs(view, oracle, masks(view, asked, SEEDS, estimator="coupled"))
    exact = (oracle.joint[2, 0, 1, 1] / oracle.joint[2].sum()).log()
    torch.testing.assert_close(log_p_BL.sum(dim=1), exact.expand(6))


def test_masks_depend_on_the_seed_alone():
    drawn = masks(VIEW, answers(), SEEDS, estimator="coupled").noised.inputs_BL
    again = masks(VIEW, answers(rows=2), SEEDS[3:5], estimator="coupled").noised.inputs_BL
    assert torch.equal(again, torch.cat((drawn[3:5], drawn[9:11])))


def test_noise_without_probabilities_is_refused():
    uniform = View(Uniform(mask_id=MASK, vocab_size=VOCABULARY, never_written=(MASK, 4)), Full())
    with pytest.raises(ValueError, match="use a masked or an autoregressive one"):
        masks(uniform, answers(), SEEDS, estimator="coupled")


def test_what_follows_the_first_written_end_was_not_decided():
    end = Tokenizer.end_id
    tokenizer = Tokenizer.train(["a b"], 263)
    rows = [Row([3, 9, 0, 0, 0], [False, False, True, True, True]), Row([3, end, 0], [False, False, True])]
    found = answers_of(rows, [(3, 9, 8, end, end), (3, end, 7)], tokenizer)
    assert found.scored_BL.tolist() == [[False, False, True, True, False], [False, False, True, False, False]]
    assert found.position_BL[1].tolist() == [0, 1, 2, -1, -1] and found.tokens_BL[1, 3] == tokenizer.pad_id
    assert not found.written_BL[1, 3:].any() and found.written_BL[0, 2:].all()
