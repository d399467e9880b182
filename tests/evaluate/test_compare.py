import pytest
import torch

import sfumato
from sfumato.config import ConfigError
from sfumato.evaluate import Passage, distinct, repetition, unigram_entropy
from sfumato.evaluate.compare import check_prompts, settings_for, text_figures, write_all
from sfumato.evaluate.machine import this_machine
from sfumato.sample.language_model import LanguageModel

PROMPTS = ["Once upon a time", "Tom had a red", "The sun"]


@pytest.fixture(scope="module")
def models() -> list[LanguageModel]:
    return [sfumato.load(name, "cpu", "float32") for name in ("tiny", "tiny-ar")]


def test_everybody_gets_what_it_can_use(models: list[LanguageModel]):
    masked, causal = settings_for(models, sampler="margin", steps=4, temperature=1.0)
    assert masked == {"sampler": "margin", "steps": 4, "temperature": 1.0}
    assert causal == {"sampler": None, "steps": 4, "temperature": 1.0}  # its own
    assert all(mine["sampler"] == "left_to_right" for mine in settings_for(models, sampler="left_to_right"))


def test_a_sampler_for_nobody_is_one_line(models: list[LanguageModel]):
    for alone in (models[1:], models[1:] * 2):
        with pytest.raises(ConfigError, match="does not make sense for a model with the autoregressive process"):
            settings_for(alone, sampler="margin")
    with pytest.raises(ConfigError, match="marginal"):
        settings_for(models, sampler="marginal")
    with pytest.raises(ConfigError, match="temperature"):
        settings_for(models, temperature=-1.0)


def test_a_prompt_without_room_is_refused_before_any_work(models: list[LanguageModel]):
    check_prompts(models, PROMPTS, 64)
    with pytest.raises(ValueError, match="but the context holds 256"):
        check_prompts(models, PROMPTS, 255)


def test_a_text_depends_on_its_seed_alone_and_costs_add_up(models: list[LanguageModel]):
    settings = settings_for(models, sampler="margin", steps=4)
    seen: list[tuple[int, int]] = []
    found = write_all(models, settings, PROMPTS, max_tokens=8, seed=5, batch=2, progress=lambda *n: seen.append(n))
    assert seen == [(2, 6), (4, 6), (5, 6), (6, 6)]
    for model, mine, texts in zip(models, settings, found, strict=True):
        alone = [model.generate(p, max_tokens=8, seed=5 + i, **mine) for i, p in enumerate(PROMPTS)]
        assert [one.tokens for one in texts.generations] == [one.tokens for one in alone]
        cost = texts.cost
        assert cost.tokens == sum(one.stats.committed for one in alone)
        assert cost.nfe == pytest.approx(sum(one.stats.nfe for one in alone) / 3)
        assert cost.tpf == pytest.approx(cost.tokens / cost.nfe / 3)
        assert 0 < cost.slowest <= cost.tokens_per_second <= cost.fastest
        assert cost.peak_bytes is not None and cost.peak_bytes > 4 * model.denoiser.num_parameters()
    assert found[0].cost.nfe <= 4 < found[1].cost.nfe


def test_positions_are_counted_once_a_batch(models: list[LanguageModel]):
    """Four steps over the whole canvas, prompt included."""
    (found,) = write_all(models[:1], [{"sampler": "margin", "steps": 4}], ["Tom had"] * 4, max_tokens=8, batch=2)
    length = 1 + len(models[0].tokenizer.encode("Tom had")) + 8
    if all(one.finish_reason == "length" for one in found.generations):
        assert found.cost.positions_per_token == pytest.approx(4 * length / 8)
    assert found.cost.tokens == sum(one.stats.committed for one in found.generations)


def test_figures_of_the_text(models: list[LanguageModel]):
    tokenizer = models[0].tokenizer
    passages = [Passage("a", " the cat sat on the mat and the cat sat on the mat", True), Passage("b", " a dog", False)]
    texts = [tokenizer.encode(passage.completion) for passage in passages]
    assert text_figures(passages, tokenizer) == {
        "entropy": unigram_entropy(texts).each,
        "entropy_together": unigram_entropy(texts).together,
        "distinct_2": distinct(texts, 2),
        "repetition_4": repetition(texts, 4),
    }
    assert set(text_figures([Passage("a", "", True)], tokenizer).values()) == {None}


def test_the_machine_in_a_line():
    machine = this_machine(torch.device("cpu"), torch.bfloat16)
    assert machine.cpu and machine.line.startswith(machine.cpu)
    assert machine.line.endswith(f"torch {torch.__version__}, cpu bfloat16")


def test_a_model_that_wrote_nothing_has_a_rate_of_zero(models: list[LanguageModel]):
    from dataclasses import replace

    from sfumato.evaluate.compare import _cost

    one = models[0].generate("Tom had", max_tokens=2, seed=1)
    cost = _cost([[replace(one, stats=replace(one.stats, committed=0))]], None)  # an insertion model may add nothing
    assert cost.tokens == cost.tokens_per_second == 0 < cost.positions_per_token
