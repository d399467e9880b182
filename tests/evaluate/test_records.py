"""Likelihoods record by record: those of the estimators, whoever stands beside a record, and gone on with."""

import json
import math
from pathlib import Path

import pytest
import torch
from bundles import CONTEXT, make

from sfumato.config import Source
from sfumato.evaluate.continuation import Continuation, continuation_nats
from sfumato.evaluate.likelihood import ratio_stderr
from sfumato.evaluate.records import MARK, RecordLikelihood, Scorer, add, counts, mean
from sfumato.sample.journal import Journal, OtherRun
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.records import Record
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.denoising import turns

TOKENIZER = Tokenizer.train(["Once upon a time there was a little cat. It sat on the mat. größer " * 3], 290)
TEXTS = ["Once upon a time", "a cat", "a", "It sat on the mat. größer " * 3, "the mat " * 100, "cat " * 7]


@pytest.fixture(scope="module", params=["masked", "autoregressive", "uniform"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(make(TOKENIZER, request.param))


@pytest.fixture(scope="module")
def masked() -> LanguageModel:
    return LanguageModel(make(TOKENIZER, chat=ChatTemplate().to_dict()))


def records(contents: list) -> list[Record]:
    return [
        Record(i, f"in.jsonl:{i + 1}", {"text": one} if isinstance(one, str) else one) for i, one in enumerate(contents)
    ]


def found(model: LanguageModel, contents: list, **how) -> list[RecordLikelihood]:
    measured = Scorer(model, Source("", field="text"), **how).measure(records(contents))
    assert all(isinstance(one, RecordLikelihood) for one in measured), measured
    return measured


def test_a_record_costs_what_the_estimators_say(model: LanguageModel):
    measured = found(model, TEXTS, samples=4, seed=3)
    for i, one in enumerate(measured[:4]):
        tokens = [*TOKENIZER.encode(TEXTS[i]), TOKENIZER.end_id]
        nats_S = continuation_nats(model, [Continuation(TOKENIZER.begin, tokens, i)], samples=4, seed=3)[0]
        assert one.nats == pytest.approx(float(nats_S.mean()), abs=1e-3)
        assert (one.tokens, one.bytes) == (len(tokens), len(TEXTS[i].encode()))
        assert one.nats_per_token == pytest.approx(one.nats / one.tokens, rel=1e-5)
        assert one.bits_per_byte == pytest.approx(one.nats / math.log(2) / one.bytes, rel=1e-4)
        assert one.perplexity == pytest.approx(math.exp(one.nats_per_token), rel=1e-3)
    assert {one.kind for one in measured} == {"exact" if model.process.name == "autoregressive" else "bound"}
    assert (measured[3].stderr == 0) == (model.process.name == "autoregressive")


def test_a_record_does_not_know_its_neighbours(model: LanguageModel):
    together = found(model, TEXTS, samples=4, rows=5)
    for i, record in enumerate(records(TEXTS)):
        alone = Scorer(model, Source(""), samples=4, rows=2).measure([record])[0]
        assert alone.nats == pytest.approx(together[i].nats, rel=1e-5, abs=2e-4)
        assert alone.stderr == pytest.approx(together[i].stderr, rel=1e-3, abs=2e-4)


def test_a_text_longer_than_the_context_is_measured_in_pieces(model: LanguageModel):
    one = found(model, TEXTS, samples=2)[4]
    assert one.tokens == len(TOKENIZER.encode(TEXTS[4])) + 1 > 2 * CONTEXT and one.bytes == len(TEXTS[4])


def test_the_standard_error_is_that_of_the_noise(masked: LanguageModel):
    seeds = [found(masked, TEXTS[:1], samples=8, seed=seed)[0] for seed in range(60)]
    spread = torch.tensor([one.nats for one in seeds]).std()
    typical = torch.tensor([one.stderr for one in seeds]).square().mean().sqrt()
    assert 0.7 < typical / spread < 1.6  # an upper estimate, from 8 samples each


def test_of_a_prompt_with_a_response_the_response_counts(masked: LanguageModel):
    pair = {"prompt": "Once upon", "response": " a time"}
    chat = {"messages": [{"role": "user", "content": "Once"}, {"role": "assistant", "content": "a cat"}]}
    template = turns(masked.bundle.config)
    plain, turn, said = (
        found(masked, [one], chat=how)[0] for one, how in ((pair, None), (pair, template), (chat, template))
    )
    assert plain.tokens == len(TOKENIZER.encode_batch([" a time"], continued=True)[0]) + 1 and plain.bytes == 7
    assert turn.tokens > 0 and turn.bytes == 7 and said.bytes == 5
    other = found(masked, [pair | {"prompt": "It sat on the mat"}])[0]
    assert other.nats != plain.nats and other.tokens == plain.tokens
    source = Source("", prompt="Q: {question}", response="{answer}")
    asked = Scorer(masked, source).measure([Record(0, "", {"question": "why", "answer": "a cat"})])[0]
    assert asked.bytes == 5


def test_what_has_no_text_ends_the_run_or_is_an_error_in_its_place(masked: LanguageModel, tmp_path: Path):
    bad = [{"other": "a"}, {"text": 3}, {"text": " "}, {"prompt": "a", "response": ""}]
    expected = ["no field 'text'; it has other", "expected a string", "the text is empty", "response is empty"]
    for record, why in zip(records(bad), expected, strict=True):
        with pytest.raises(ValueError, match=rf"^in\.jsonl:\d: .*{why}"):
            Scorer(masked, Source("")).measure([record])
    contents = records([*bad, "a cat"]) + [Record(5, "in.jsonl:6", {}, "not valid JSON")]
    with Journal(tmp_path / "out.jsonl", MARK) as journal:
        done = Scorer(masked, Source(""), on_error="skip")(contents, journal)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [set(line[MARK]) == {"error", "made"} for line in lines] == [True] * 4 + [False, True]
    assert lines[0]["other"] == "a" and (done["rows"], done["errors"], done["bytes"]) == (6, 5, 5)


def test_a_run_that_was_stopped_goes_on_to_the_same_file(masked: LanguageModel, tmp_path: Path):
    def measure(path: Path, **how) -> dict[str, float]:
        with Journal(path, MARK) as journal:
            return Scorer(masked, Source(""), **{"samples": 2, "rows": 3} | how)(records(TEXTS * 3), journal)

    out = tmp_path / "out.jsonl"
    done = measure(out)
    whole = out.read_bytes()
    for size in (0, 500, 1200, len(whole) - 1, len(whole)):
        out.write_bytes(whole[:size])
        again = measure(out)
        assert again.pop("resumed") == whole[:size].count(b"\n")
        assert [json.loads(one)["text"] for one in out.read_text().splitlines()] == TEXTS * 3
        assert again == pytest.approx({name: value for name, value in done.items() if name != "resumed"}, rel=1e-5)
    for change in ({"seed": 1}, {"samples": 3}, {"chat": turns(masked.bundle.config)}):
        with pytest.raises(OtherRun, match=r"out\.jsonl:1: not what this run would write"):
            measure(out, **change)


def test_the_mean_is_the_ratio_estimator_of_the_sums():
    generator = torch.Generator().manual_seed(1)
    tokens_R = torch.randint(1, 90, (200,), generator=generator).double()
    nats_R = tokens_R * 3 + torch.randn(200, generator=generator, dtype=torch.float64) * 5
    there = [
        {MARK: {"nats": float(n), "tokens": int(t), "bytes": 4 * int(t)}} for n, t in zip(nats_R, tokens_R, strict=True)
    ]
    done = counts(there[:77])
    add(done, counts(there[77:]))
    got, bits = mean(done, "tokens"), mean(done, "bytes", math.log(2))
    assert got.value == pytest.approx(float(nats_R.sum() / tokens_R.sum()))
    assert got.stderr == pytest.approx(ratio_stderr(nats_R[:, None], tokens_R))
    assert got.stderr is not None and bits.stderr is not None
    assert (got.low, got.high) == pytest.approx((got.value - 1.96 * got.stderr, got.value + 1.96 * got.stderr))
    assert bits.value == pytest.approx(got.value / 4 / math.log(2)) and bits.stderr < got.stderr
    one = mean(counts(there[:1]), "tokens")
    assert one.value == pytest.approx(float(nats_R[0] / tokens_R[0])) and one.stderr is one.low is one.high is None
