"""Shape letters: B rows, L places in a row, V vocabulary."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from growing import MASK as GROWING_MASK
from growing import PADDING, GrowingOracle
from latents import LatentOracle
from oracle import MASK, START, VOCABULARY, Noise, Oracle, hybrid_noise, uniform_noise
from published import forward, random_network
from torch import Tensor

from sfumato.canvas import Where
from sfumato.config import ModelConfig
from sfumato.data.batches import Batch, rows_of
from sfumato.data.sources import Pair
from sfumato.evaluate import likelihood
from sfumato.evaluate.likelihood import estimates, noised_rows, time_of
from sfumato.model.layout import Causal, Full, Layout
from sfumato.model.transformer import Transformer
from sfumato.process import Autoregressive, Cosine, Hybrid, Insertion, Linear, LogLinear, Masked, Process, Uniform
from sfumato.text.tokenizer import Tokenizer

MASKED = Masked(mask_id=MASK)


def as_batch(tokens_BL: Tensor) -> Batch:
    """One document a row."""
    position_BL = torch.arange(tokens_BL.shape[1]).expand(tokens_BL.shape)
    return Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL), position_BL > 0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat. Größe, größer, am größten. " * 4], 290)


@pytest.fixture(scope="module")
def network(tokenizer: Tokenizer) -> Transformer:
    """Random weights, of which none is zero."""
    config = ModelConfig(vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=2, mlp_width=48, context=24)
    torch.manual_seed(5)
    built = Transformer(config, never_written=(tokenizer.mask_id, tokenizer.pad_id, tokenizer.start_id))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.3)
    return built.eval()


@pytest.fixture(scope="module")
def text(tokenizer: Tokenizer) -> tuple[Batch, int]:
    return rows_of([f"the cat {n} sat on mat {n * n}, größer" for n in range(9)], tokenizer, 24)


# --- against the truth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "noise"),
    [
        (Uniform(mask_id=MASK, vocab_size=VOCABULARY, never_written=(MASK, START)), uniform_noise()),
        (Hybrid(mask_id=MASK, vocab_size=VOCABULARY, never_written=(MASK, START)), hybrid_noise()),
    ],
    ids=["uniform", "hybrid"],
)
def test_the_bound_of_words_that_noise_changed_is_the_entropy_too(process: Process, noise: Noise):
    oracle = Oracle(noise=noise)
    found = likelihood(oracle, process, Full(), as_batch(oracle.draw(4000)), 1, samples=4, rows=4000)
    assert found.kind == "bound" and found.tokens == 16000
    assert found.estimator == f"ELBO of {process.name} noise, stratified"
    assert found.stderr < 0.02
    assert abs(found.nats_per_token - oracle.entropy / 4) < 4 * found.stderr


def test_the_bound_of_texts_of_any_length_is_the_entropy_too():
    oracle = GrowingOracle()
    generator = torch.Generator().manual_seed(2)
    tokens_BL = oracle.rows_TL[torch.multinomial(oracle.probability_T, 1500, replacement=True, generator=generator)]
    padding_BL = tokens_BL == PADDING
    position_BL = torch.arange(tokens_BL.shape[1]).expand(tokens_BL.shape).masked_fill(padding_BL, -1)
    batch = Batch(tokens_BL, position_BL, torch.zeros_like(tokens_BL).masked_fill(padding_BL, -1), position_BL > 0)
    found = likelihood(oracle, Insertion(GROWING_MASK), Full(), batch, 1, samples=4, rows=2000)
    assert found.kind == "bound" and found.estimator == "ELBO of insertion noise, stratified"
    assert found.stderr < 0.05
    assert abs(found.nats_per_token - oracle.entropy * 1500 / found.tokens) < 4 * found.stderr
    again = likelihood(oracle, Insertion(GROWING_MASK), Full(), batch, 1, samples=4, rows=700)
    assert again == found


def test_with_true_conditionals_the_bound_is_the_entropy(oracle: Oracle):
    found = likelihood(oracle, MASKED, Full(), as_batch(oracle.draw(4000)), 1, samples=4, rows=4000)
    assert found.kind == "bound" and found.tokens == 16000
    assert found.stderr < 0.01
    assert abs(found.nats_per_token - oracle.entropy / 4) < 4 * found.stderr


def test_with_true_conditionals_the_autoregressive_value_is_the_entropy(oracle: Oracle):
    found = likelihood(oracle, Autoregressive(), Causal(), as_batch(oracle.draw(4000)), 1, rows=4000)
    assert found.kind == "exact" and found.samples == 1
    assert abs(found.nats_per_token - oracle.entropy / 4) < 4 * found.stderr


def test_the_bound_of_a_single_text_converges_to_its_probability(oracle: Oracle):
    """Every order of writing gives the same product of conditionals."""
    for text in (0, 40, 77):
        found = likelihood(
            oracle, MASKED, Full(), as_batch(oracle.rows_TL[text : text + 1]), 1, samples=3000, rows=3000
        )
        truth = -float(oracle.probability_T[text].log())
        assert 4 * found.stderr < 0.05 * truth
        assert abs(4 * found.nats_per_token - truth) < 4 * 4 * found.stderr


def test_the_exact_value_of_every_text_is_its_probability(oracle: Oracle):
    for row, probability in zip(oracle.rows_TL.split(1), oracle.probability_T.tolist(), strict=True):
        found = likelihood(oracle, Autoregressive(), Causal(), as_batch(row), 1)
        assert found.nats_per_token == pytest.approx(-math.log(probability) / 4, rel=1e-12)


def test_the_standard_error_is_honest(oracle: Oracle):
    """Over many texts and seeds the deviations are about one standard error: not more, and not far less."""
    for process, layout in ((MASKED, Full()), (Autoregressive(), Causal())):
        squares = []
        for seed in range(60):
            batch = as_batch(oracle.draw(100, seed=100 + seed))
            found = likelihood(oracle, process, layout, batch, 1, samples=2, rows=200, seed=seed)
            squares.append(((found.nats_per_token - oracle.entropy / 4) / found.stderr) ** 2)
        assert 0.7 < math.sqrt(sum(squares) / len(squares)) < 1.25


def test_the_autoregressive_value_is_the_sum_of_log_probabilities(network: Transformer, tokenizer: Tokenizer):
    """Each token by itself, from a forward of nothing but what precedes it in its own document."""
    texts = ["the cat sat", "größer", "on the mat"]
    batch, size = rows_of(texts, tokenizer, 24)
    assert len(batch.tokens_BL) < len(texts)  # documents share a row
    double = _double(network)
    found = likelihood(double, Autoregressive(), Causal(), batch, size)
    total = 0.0
    for text in texts:
        ids = [tokenizer.start_id, *tokenizer.encode(text), tokenizer.end_id]
        for n in range(1, len(ids)):
            before = torch.tensor([ids[:n]])
            hidden = double.encode(before, where=Where(torch.arange(n)[None], None), layout=Causal())
            total -= float(double.readout(hidden[0, -1:]).log_softmax(dim=-1)[0, ids[n]])
    assert found.nats_per_token * found.tokens == pytest.approx(total, rel=1e-12)
    assert found.bytes == sum(len(text.encode()) for text in texts)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / found.bytes, rel=1e-12)


def test_a_response_is_measured_given_its_prompt(network: Transformer, tokenizer: Tokenizer):
    """The nats of the whole are those of the response and those of the prompt before it."""
    double = _double(network)
    assert tokenizer.encode("on the mat") == tokenizer.encode("on the") + tokenizer.encode(" mat")
    whole, answer = (
        likelihood(double, Autoregressive(), Causal(), *rows_of([document], tokenizer, 24))
        for document in ("on the mat", Pair("on the", " mat"))
    )
    ids = torch.tensor([[tokenizer.start_id, *tokenizer.encode("on the")]])
    hidden = double.encode(ids, where=Where(torch.arange(ids.shape[1])[None], None), layout=Causal())
    log_p_NV = double.readout(hidden[0, :-1]).log_softmax(dim=-1)
    prompt = -float(log_p_NV.gather(1, ids[0, 1:, None]).sum())
    assert answer.nats_per_token * answer.tokens + prompt == pytest.approx(whole.nats_per_token * whole.tokens)
    assert (answer.bytes, answer.tokens) == (4, len(tokenizer.encode(" mat")) + 1)


def test_an_answer_is_measured_as_llada_measures_it():
    """128 masked answers: of L tokens l lose their place in turn, and the nats of those count L / l times."""
    network, prompt, length = random_network("llada", 4), [5, 9, 17], 8
    tokens_BL = torch.tensor([[*prompt, *range(20, 20 + length)]])
    place_BL = torch.arange(tokens_BL.shape[1])[None]
    batch = Batch(tokens_BL, place_BL, torch.zeros_like(tokens_BL), place_BL >= len(prompt))
    found_RS = estimates(network, Masked(mask_id=0), Full(), batch, samples=128, seed=3)
    rows, sample_B = torch.zeros(128, dtype=torch.int64), torch.arange(128)
    noised, _ = noised_rows(Masked(mask_id=0), Full(), batch.select(rows), rows, sample_B, 128, 3)
    counts, expected = [], []
    for inputs in noised.inputs_BL.tolist():
        masked = [i for i, token in enumerate(inputs) if token == 0]
        log_p_LV = forward(network, inputs)[0].log_softmax(-1)
        nats = -sum(float(log_p_LV[i, tokens_BL[0, i]]) for i in masked)
        counts.append(len(masked))
        expected.append(nats * length / len(masked))
    assert found_RS[0].tolist() == pytest.approx(expected, rel=1e-7)  # weights are float32
    assert {counts.count(n) for n in range(1, length + 1)} == {128 // length}


@pytest.mark.parametrize(("process", "layout"), [(Masked(mask_id=0), Full()), (Autoregressive(), Causal())])
def test_a_row_of_nothing_but_context_costs_nothing(network: Transformer, text: tuple[Batch, int], process, layout):
    batch, size = text
    silent = Batch(*(torch.cat((tensor, tensor[:1])) for tensor in vars(batch).values()))
    silent.editable_BL[-1] = False
    first, second = (likelihood(network, process, layout, rows, size, samples=2) for rows in (batch, silent))
    assert first.tokens == second.tokens and first.nats_per_token == pytest.approx(second.nats_per_token, rel=1e-6)
    assert likelihood(network, process, layout, silent, size, rows=1).tokens == first.tokens


# --- what the result depends on, and what not -------------------------------------------------------------------------


@pytest.mark.parametrize(("process", "layout"), [(Masked(mask_id=0), Full()), (Autoregressive(), Causal())])
def test_rows_in_a_forward_do_not_matter(network: Transformer, text: tuple[Batch, int], process, layout: Layout):
    double, single = _double(network), network
    exact = [likelihood(double, process, layout, *text, samples=3, rows=rows) for rows in (1, 4, 16)]
    for other in exact[1:]:
        assert other.nats_per_token == pytest.approx(exact[0].nats_per_token, rel=1e-12)
        assert other.stderr == pytest.approx(exact[0].stderr, rel=1e-9)
    near = [likelihood(single, process, layout, *text, samples=3, rows=rows) for rows in (1, 4, 16)]
    assert all(found.nats_per_token == pytest.approx(exact[0].nats_per_token, abs=1e-6) for found in near)


def test_a_row_does_not_depend_on_its_neighbours(oracle: Oracle):
    """So two evaluations of texts that begin alike differ by what differs."""
    rows, others = oracle.draw(7), oracle.draw(2, seed=9)

    def nats(tokens_BL: Tensor) -> float:
        found = likelihood(oracle, MASKED, Full(), as_batch(tokens_BL), 1)
        return found.nats_per_token * found.tokens

    assert nats(rows[:6]) - nats(rows[:5]) == pytest.approx(
        nats(torch.cat((others, rows[2:6]))) - nats(torch.cat((others, rows[2:5]))), abs=1e-12
    )


def test_the_seed_decides(network: Transformer, text: tuple[Batch, int]):
    one, same, other = (likelihood(network, Masked(mask_id=0), Full(), *text, seed=seed) for seed in (3, 3, 4))
    assert one == same
    assert one.nats_per_token != other.nats_per_token
    assert abs(one.nats_per_token - other.nats_per_token) < 6 * math.hypot(one.stderr, other.stderr)


def test_more_samples_make_a_smaller_error(oracle: Oracle):
    batch = as_batch(oracle.rows_TL[:1])
    errors = [likelihood(oracle, MASKED, Full(), batch, 1, samples=n, rows=512).stderr for n in (8, 128, 2048)]
    assert errors[0] > errors[1] > errors[2] > 0
    rows = as_batch(oracle.draw(500))
    few, many = (likelihood(oracle, MASKED, Full(), rows, 1, samples=n, rows=4000) for n in (1, 8))
    assert many.stderr < few.stderr


def test_stratified_counts_beat_independent_ones(oracle: Oracle):
    """The same work in one call is more precise than in many calls of one sample each."""
    batch = as_batch(oracle.draw(8))
    together = [likelihood(oracle, MASKED, Full(), batch, 1, samples=8, rows=64, seed=s) for s in range(40)]
    alone = [likelihood(oracle, MASKED, Full(), batch, 1, samples=1, rows=64, seed=100 + s) for s in range(320)]
    means = [sum(x.nats_per_token for x in alone[i : i + 8]) / 8 for i in range(0, 320, 8)]
    assert _sd([x.nats_per_token for x in together]) < 0.9 * _sd(means)


@pytest.mark.parametrize("objective", ["elbo", "count", "cross_entropy"])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), LogLinear()])
def test_the_value_does_not_depend_on_what_was_minimised(
    network: Transformer, text: tuple[Batch, int], objective: str, schedule
):
    plain = likelihood(network, Masked(mask_id=0), Full(), *text)
    found = likelihood(network, Masked(mask_id=0, schedule=schedule, objective=objective), Full(), *text)
    assert found == plain


def test_a_network_that_is_told_the_time_gets_the_one_of_its_schedule():
    noise = torch.tensor([0.01, 0.3, 0.5, 0.99], dtype=torch.float64)
    for schedule in (Linear(), Cosine(), LogLinear()):
        assert torch.allclose(1 - schedule.alpha(time_of(schedule, noise)), noise, atol=1e-9)


def test_padding_and_the_room_in_a_row_change_nothing(network: Transformer, tokenizer: Tokenizer):
    texts = ["the cat sat on the mat"]
    double = _double(network)
    narrow, wide = (likelihood(double, Masked(mask_id=0), Full(), *rows_of(texts, tokenizer, n)) for n in (24, 40))
    assert narrow.nats_per_token == pytest.approx(wide.nats_per_token, rel=1e-12)
    assert replace(narrow, nats_per_token=0, bits_per_byte=0, stderr=0) == replace(
        wide, nats_per_token=0, bits_per_byte=0, stderr=0
    )


def test_bytes_are_those_of_utf8(network: Transformer, tokenizer: Tokenizer):
    batch, size = rows_of(["größe 🙂"], tokenizer, 24)
    assert size == 12
    found = likelihood(network, Autoregressive(), Causal(), batch, size)
    assert found.bits_per_byte == pytest.approx(found.nats_per_token * found.tokens / math.log(2) / 12)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_progress_is_told_and_reaches_its_end(oracle: Oracle):
    seen: list[tuple[int, int]] = []
    likelihood(
        oracle, MASKED, Full(), as_batch(oracle.draw(5)), 1, samples=2, rows=4, progress=lambda *n: seen.append(n)
    )
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_the_result_is_plain_numbers_and_text(oracle: Oracle):
    found = likelihood(oracle, MASKED, Full(), as_batch(oracle.draw(5)), 17, samples=2, seed=7)
    assert {type(value) for value in asdict(found).values()} == {float, int, str}
    assert (found.samples, found.tokens, found.bytes, found.seed) == (2, 20, 17, 7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"total_bytes": 0}, "nothing to evaluate: the text holds 20 tokens and 0 bytes"),
        ({"batch": as_batch(torch.zeros(0, 5, dtype=torch.int64))}, "nothing to evaluate: the text holds 0 tokens"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(oracle: Oracle, changed: dict, message: str):
    arguments = {"batch": as_batch(oracle.draw(5)), "total_bytes": 1, **changed}
    with pytest.raises(ValueError, match=message):
        likelihood(oracle, MASKED, Full(), **arguments)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(network: Transformer, text: tuple[Batch, int]):
    here = likelihood(_double(network), Masked(mask_id=0), Full(), *text)
    there = likelihood(_double(network).cuda(), Masked(mask_id=0), Full(), *text, device="cuda")
    assert there.nats_per_token == pytest.approx(here.nats_per_token, rel=1e-9)


def _double(network: Transformer) -> Transformer:
    copy = Transformer(network.config, never_written=(0, 2, 3)).double()
    copy.load_state_dict(network.state_dict())
    return copy.eval().requires_grad_(False)


def _sd(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


# --- noised embeddings ------------------------------------------------------------------------------------------------


def test_with_the_exact_posterior_mean_the_gaussian_bound_is_the_entropy():
    exact, alone = LatentOracle(), LatentOracle(alone=True)
    batch = as_batch(exact.draw(2000))
    found, more = (likelihood(o, o.process, Full(), batch, 1, samples=4, rows=2000) for o in (exact, alone))
    assert found.kind == "bound" and "gaussian" in found.estimator
    assert abs(found.nats_per_token - exact.entropy / 4) < 4 * found.stderr < 0.1 * exact.entropy / 4
    assert more.nats_per_token > found.nats_per_token + 4 * (found.stderr + more.stderr)
