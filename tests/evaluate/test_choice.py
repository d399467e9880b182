import math
from dataclasses import replace

import pytest
import torch
from bundles import make
from oracle import MASK, Oracle

from sfumato.data.batches import Batch
from sfumato.data.sources import Pair
from sfumato.evaluate import choose, likelihood
from sfumato.evaluate.continuation import sample_stderr
from sfumato.evaluate.enumeration import enumerated
from sfumato.evaluate.likelihood import estimates
from sfumato.model.layout import Block, Full, Layout
from sfumato.process import Masked
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer

MASKED = Masked(mask_id=MASK)
PROMPTS = ["the cat", "the mat sat", "größer"]
CHOICES = [" sat on the mat", " sat", " am größten the mat sat on"]


def model(kind: str = "masked", **changes) -> LanguageModel:
    tokenizer = Tokenizer.train(["the cat sat on the mat. Größe, größer, am größten. " * 4], 290)
    found = LanguageModel(make(tokenizer, kind, **changes))
    generator = torch.Generator().manual_seed(3)
    for parameter in found.denoiser.parameters():
        parameter.data.normal_(std=0.4, generator=generator)
    return found


def rows(oracle: Oracle) -> Batch:
    tokens_BL = oracle.rows_TL
    position_BL = torch.arange(tokens_BL.shape[1]).expand(tokens_BL.shape)
    return Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL > 0)


# --- all masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [Full(), Block(1), Block(2), Block(3)], ids=["full", "one", "two", "three"])
def test_over_all_masks_true_conditionals_give_each_text_its_probability(oracle: Oracle, layout: Layout):
    nats_T = enumerated(oracle, MASKED, layout, rows(oracle), rows=500)
    assert torch.allclose(nats_T, -oracle.probability_T.log(), atol=1e-6)


def test_over_all_masks_is_what_random_masks_come_to():
    """Of a network whose conditionals do not fit together, so that the bound is no probability."""
    network = model(layout="block", model=replace(model().bundle.config.model, block=4))
    prompt, text = "the cat", " sat on"
    batch = choice_batch(network, prompt, text)
    (truth,) = enumerated(network.denoiser, network.process, network.layout, batch).tolist()
    nats_RS = estimates(network.denoiser, network.process, network.layout, batch, samples=4000, rows=500, seed=4)
    assert abs(float(nats_RS.mean()) - truth) < 4 * sample_stderr(nats_RS[0]) < 0.05 * truth


def choice_batch(network: LanguageModel, prompt: str, text: str) -> Batch:
    from sfumato.data.batches import rows_of

    return rows_of([Pair(prompt, text)], network.tokenizer, 24)[0]


# --- random masks -----------------------------------------------------------------------------------------------------


def test_rows_with_the_same_number_lose_the_same_places(oracle: Oracle):
    """So what two equal texts cost differs by nothing, sample by sample."""
    batch = rows(oracle)
    twice = Batch(*(torch.cat((part[:9], part[:9])) for part in vars(batch).values()))
    noise_R = torch.arange(9).repeat(2)
    nats_RS = estimates(oracle, MASKED, Full(), twice, noise_R=noise_R, samples=6, rows=7)
    assert torch.equal(nats_RS[:9], nats_RS[9:])
    assert not torch.equal(estimates(oracle, MASKED, Full(), twice, samples=6)[9:], nats_RS[9:])


def test_the_standard_error_is_not_too_small(oracle: Oracle):
    """Of a thousand estimates of one text with 8 samples each: their true spread is at most what they say."""
    batch = Batch(*(part[40:41].expand(1000, -1) for part in vars(rows(oracle)).values()))
    nats_RS = estimates(Oracle(seed=1), MASKED, Full(), batch, samples=8, rows=8000)
    said = math.sqrt(sum(sample_stderr(nats_S) ** 2 for nats_S in nats_RS) / 1000)
    found = float(nats_RS.mean(dim=1).std())
    assert 0.9 * found < said < 3 * float(nats_RS.std()) / math.sqrt(8)


# --- choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "uniform", "autoregressive"])
def test_a_choice_is_that_of_the_likelihoods(kind: str):
    network = model(kind)
    for prompt, choice in zip(PROMPTS, choose(network, PROMPTS, CHOICES, 64), strict=True):
        for text, found, error in zip(CHOICES, choice.log_likelihoods, choice.stderr, strict=True):
            truth, its_error = likelihood_of(network, prompt, text)
            assert abs(found + truth) < 4 * math.hypot(error, its_error) + 1e-4
        assert choice.index == max(range(3), key=lambda i: choice.log_likelihoods[i])
        assert choice.kind == ("exact" if kind == "autoregressive" else "bound")
        assert choice.tokens == tuple(len(network.tokenizer.encode(text)) + 1 for text in CHOICES)


def likelihood_of(network: LanguageModel, prompt: str, text: str) -> tuple[float, float]:
    batch = choice_batch(network, prompt, text)
    found = likelihood(network.denoiser, network.process, network.layout, batch, 1, samples=64, seed=9)
    return found.nats_per_token * found.tokens, found.stderr * found.tokens


def test_short_choices_are_tried_with_all_masks_and_nothing_is_random():
    network = model()
    one, other = (choose(network, PROMPTS, [" a", " t", " s"], 16, seed) for seed in (0, 1))
    assert one == other
    assert all(choice.stderr == (0, 0, 0) and choice.sure and choice.kind == "bound" for choice in one)
    assert choose(network, ["the"], [[" a", " cat sat on the mat"]], 16)[0].stderr[0] > 0


def test_a_result_depends_neither_on_the_other_prompts_nor_on_their_batch():
    network = model()
    together, again = choose(network, PROMPTS, CHOICES), choose(network, PROMPTS[::-1], CHOICES)[::-1]
    alone = [choose(network, [prompt], [CHOICES])[0] for prompt in PROMPTS]
    for one, other, third in zip(together, again, alone, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)
        assert one.log_likelihoods == pytest.approx(third.log_likelihoods, abs=1e-4)
    assert choose(network, PROMPTS, CHOICES, seed=1) != together


def test_short_choices_are_tried_with_all_masks_beside_longer_ones_too():
    network = model()
    (alone,) = choose(network, ["the cat"], [[" sat", " on"]])
    beside, other = choose(network, ["the cat", "the mat"], [[" sat", " on"], CHOICES])
    assert beside.index == alone.index and set(beside.stderr) == {0.0} and min(other.stderr) > 0
    assert beside.log_likelihoods == pytest.approx(alone.log_likelihoods, abs=1e-5)


def test_between_equal_candidates_nobody_is_sure():
    for kind in ("masked", "autoregressive"):
        (choice,) = choose(model(kind), ["the cat"], [" sat on the mat", " sat on the mat"], 8)
        assert (choice.index, choice.lead, choice.lead_stderr, choice.sure) == (0, 0.0, 0.0, False)


def test_a_lead_within_the_noise_is_not_sure():
    network = model()
    few = choose(network, PROMPTS, [" sat on the mat", " sat on the cat", " sat on a mat sat"], 4)
    assert all(choice.sure == (choice.lead > 3 * choice.lead_stderr) or not choice.sure for choice in few)
    assert any(not choice.sure for choice in few)


def test_a_single_candidate_is_chosen():
    (choice,) = choose(model(), ["the cat"], [" sat"])
    assert choice.index == choice.by_token == 0 and choice.sure and choice.lead == math.inf


def test_the_end_of_the_text_is_part_of_it_unless_it_goes_on():
    network = model("autoregressive")
    ended, going_on = (choose(network, ["the cat"], CHOICES, ends=ends)[0] for ends in (True, False))
    assert [a - b for a, b in zip(ended.tokens, going_on.tokens, strict=True)] == [1, 1, 1]
    assert all(a < b for a, b in zip(ended.log_likelihoods, going_on.log_likelihoods, strict=True))


def test_conversations_are_scored_by_their_template():
    """Each candidate fills the same canvas: behind an answer's end there are more ends."""
    chat = ChatTemplate(default_system="Be kind.").to_dict()
    (choice,) = choose(model(chat=chat), ["the cat"], CHOICES)
    assert len(set(choice.tokens)) == 1
    (twin,) = choose(model("autoregressive", chat=chat), ["the cat"], CHOICES)
    assert len(set(twin.tokens)) == 3


@pytest.mark.parametrize(
    ("prompts", "choices", "options", "message"),
    [
        (["a"], [], {}, "choices"),
        (["a", "b"], [["x"], []], {}, "prompt 1 has none"),
        (["a"], [["x", ""]], {}, "prompt 0 has an empty one"),
        (["a"], [["x"], ["y"]], {}, "one for each of 1 prompts"),
        (["a"], ["x", ["y"]], {}, "one for each of 1 prompts"),
        (["a"], ["x", "y"], {"samples": 3}, "samples: expected at least 4"),
        (["the " * 120], ["x"], {}, "the model reads 96"),
    ],
)
def test_what_cannot_be_chosen_among_is_refused(prompts: list, choices: list, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        choose(model(), prompts, choices, **options)
