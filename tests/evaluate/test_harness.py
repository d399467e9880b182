"""Our models in lm-eval: the numbers are the model's own, and nothing else decides them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring import TEXT, build

from sfumato.config import ConfigError
from sfumato.data.batches import rows_of
from sfumato.evaluate.enumeration import enumerated
from sfumato.evaluate.likelihood import estimates
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import ChatTemplate

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402

from sfumato.evaluate.continuation import Continuation, _batch  # noqa: E402
from sfumato.evaluate.harness import Harness  # noqa: E402

PAIRS = [
    ("the cat", [" sat on the mat.", " on", " größer, am größten"]),
    ("the mat sat on the cat sat", [" the", " cat sat on the mat"]),
    ("", ["the cat sat", "größer"]),
]


def questions() -> list[Instance]:
    return [
        Instance("loglikelihood", {}, (context, choice), i, ("animals", doc, 1))
        for doc, (context, choices) in enumerate(PAIRS)
        for i, choice in enumerate(choices)
    ]


def rolling(*texts: str) -> list[Instance]:
    return [Instance("loglikelihood_rolling", {}, (text,), 0, ("roll", i, 1)) for i, text in enumerate(texts)]


def prompts(contexts: Sequence[str], repeats: int = 1, **wanted: Any) -> list[Instance]:
    return [
        Instance("generate_until", {}, (context, wanted), 0, ("write", i, repeats))
        for i, context in enumerate(contexts)
        for _ in range(repeats)
    ]


def predictions(found: list[tuple[float, bool]]) -> list[int]:
    chosen, at = [], 0
    for _, choices in PAIRS:
        part = [value for value, _ in found[at : at + len(choices)]]
        chosen.append(part.index(max(part)))
        at += len(choices)
    return chosen


# --- likelihoods


def test_it_is_registered():
    assert get_model("sfumato") is Harness


def test_of_an_autoregressive_model_it_is_the_sum_over_the_tokens():
    model = build("autoregressive")
    from sfumato.canvas import Where
    from sfumato.model.layout import Causal

    for (context, text), (value, greedy) in zip(
        [request.args for request in questions()], Harness(model).loglikelihood(questions()), strict=True
    ):
        ids = torch.tensor([[model.tokenizer.start_id, *model.tokenizer.encode(context + text)]])
        first, length = len(model.tokenizer.encode(context)) + 1, ids.shape[1]
        where = Where(torch.arange(length)[None], torch.zeros(1, length, dtype=torch.int64))
        hidden_ND = model.denoiser.encode(ids, where=where, layout=Causal(), read_N=torch.arange(first - 1, length - 1))
        log_p_NV = model.denoiser.readout(hidden_ND).double().log_softmax(dim=-1)
        scored_N = ids[0, first:]
        assert value == pytest.approx(float(log_p_NV.gather(1, scored_N[:, None]).sum()), rel=1e-10)
        assert greedy == bool((log_p_NV.argmax(dim=-1) == scored_N).all())


def test_of_a_masked_model_it_is_the_bound_over_all_masks():
    model = build()
    harness = Harness(model, samples=1 << 14)
    found = harness.loglikelihood(questions())
    for request, (value, _) in zip(questions(), found, strict=True):
        one = Continuation(*harness.prompts.pair(*request.args))
        (truth,) = enumerated(model.denoiser, model.process, model.layout, _batch([one], 2), rows=500).tolist()
        assert value == pytest.approx(-truth, rel=1e-9)
    assert set(harness.answers.ways) == {"all masks"} and set(harness.answers.stderrs) == {0.0}
    rough = Harness(model, samples=64, estimator="count")
    for (value, _), (truth, _), error in zip(
        rough.loglikelihood(questions()), found, rough.answers.stderrs, strict=True
    ):
        assert abs(value - truth) < 4 * error + 1e-9


@pytest.mark.parametrize("kind", ["masked", "autoregressive", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_the_batch_size_changes_nothing(kind: str, dtype: torch.dtype):
    exact = dtype == torch.float64
    harnesses = [Harness(build(kind, dtype), samples=8, batch_size=batch) for batch in (1, 8)]
    one, eight = (harness.loglikelihood(questions()) for harness in harnesses)
    assert [greedy for _, greedy in one] == [greedy for _, greedy in eight]
    assert predictions(one) == predictions(eight)
    assert [v for v, _ in one] == pytest.approx([v for v, _ in eight], rel=1e-13 if exact else 1e-5)
    one, eight = (harness.loglikelihood_rolling(rolling(TEXT, TEXT * 6, "")) for harness in harnesses)
    assert one == pytest.approx(eight, rel=1e-13 if exact else 1e-5) and one[2] == 0
    if exact:
        one, eight = (harness.generate_until(prompts(["the", "größer", ""], max_gen_toks=9)) for harness in harnesses)
        assert one == eight


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_other_documents_and_tasks_change_nothing(kind: str):
    model = build(kind)
    all_of_them = Harness(model, samples=4, estimator="auto").loglikelihood(questions())
    last = Harness(model, samples=4).loglikelihood(questions()[-2:])
    assert [v for v, _ in last] == pytest.approx([v for v, _ in all_of_them[-2:]], rel=1e-13)
    if kind == "masked":
        other = Harness(model, samples=4, seed=1).loglikelihood(questions())
        assert [v for v, _ in other] != [v for v, _ in all_of_them]


def test_the_choices_of_a_question_share_their_noise():
    """Two equal choices are equally probable, although the value is random."""
    requests = [Instance("loglikelihood", {}, ("the cat", " sat on the mat."), i, ("t", 3, 1)) for i in range(2)]
    one, other = Harness(build(), samples=4).loglikelihood(requests)
    assert one == other
    requests[1].doc_id = 4
    assert Harness(build(), samples=4).loglikelihood(requests)[1] != one


@pytest.mark.parametrize("text", [TEXT, TEXT * 8], ids=["short", "windows"])
def test_rolling_is_what_evaluate_says_of_the_text_without_its_end(text: str):
    model = build("autoregressive")
    batch, _ = rows_of([text], model.tokenizer, model.front.context)
    batch.editable_BL[batch.tokens_BL == model.tokenizer.end_id] = False
    truth = float(estimates(model.denoiser, model.process, model.layout, batch).sum())
    assert Harness(model).loglikelihood_rolling(rolling(text))[0] == pytest.approx(-truth, rel=1e-12)


def test_rolling_of_a_masked_model_is_the_same_bound():
    model = build()
    harness = Harness(model, samples=400, batch_size=50)
    (found,) = harness.loglikelihood_rolling(rolling(TEXT))
    one = Continuation(*harness.prompts.windows(TEXT)[0], noise=99)
    nats_RS = estimates(model.denoiser, model.process, model.layout, _batch([one], 2), samples=400, rows=100, seed=8)
    assert abs(found + float(nats_RS.mean())) < 4 * 2**0.5 * harness.answers.stderrs[0]


# --- texts


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_texts_are_those_of_generate(kind: str):
    model, contexts = build(kind), ["the cat", "größer", "mat"]
    wanted = {"until": ["a", "ö"], "max_gen_toks": 12}
    expected = model.generate(contexts, max_tokens=12, temperature=0, seed=4, stop=["a", "ö"])
    found = Harness(model, seed=4, batch_size=2).generate_until(prompts(contexts, **wanted))
    assert found == [one.completion for one in expected]
    drawn = model.generate(contexts, max_tokens=12, temperature=0.8, top_k=9, seed=4, stop=["a", "ö"])
    wanted |= {"do_sample": True, "temperature": 0.8, "top_k": 9}
    assert Harness(model, seed=4).generate_until(prompts(contexts, **wanted)) == [one.completion for one in drawn]


def test_the_caller_decides_over_the_task():
    model = build()
    harness = Harness(model, temperature=0.9, max_tokens=5, sampler="entropy", steps=5)
    found = harness.generate_until(prompts(["the"], max_gen_toks=30, temperature=0.0, do_sample=False, num_beams=3))
    expected = model.generate("the", max_tokens=5, temperature=0.9, sampler="entropy", steps=5)
    assert found == [expected.completion] and harness.ignored == {"num_beams"}
    assert harness.answers.costs["generate_until"].nfe == expected.stats.nfe


def test_each_request_has_its_own_limits_and_the_context_is_no_limit():
    harness = Harness(build("autoregressive"))
    requests = [prompts(["the"], max_gen_toks=n)[0] for n in (3, 150)]
    short, long = harness.generate_until(requests)
    count = harness.model.tokenizer.encode
    assert len(count(short)) <= 3 < 96 < len(count(long)) and long.startswith(short[:2])


def test_a_document_that_is_asked_for_again_gets_another_text():
    harness = Harness(build())
    found = harness.generate_until(prompts(["the", "a"], repeats=3, do_sample=True, temperature=1.0, max_gen_toks=9))
    assert len(set(found)) == 6
    assert found[::3] == harness.generate_until(prompts(["the", "a"], do_sample=True, temperature=1.0, max_gen_toks=9))


def test_a_task_cannot_run_code_through_a_sampler():
    with pytest.raises(ConfigError, match="only the caller may name a file"):
        Harness(build()).generate_until(prompts(["a"], sampler="evil.py:Sampler"))


def test_conversations_are_rendered_for_this_model():
    model = build(chat=ChatTemplate().to_dict())
    harness = Harness(model)
    said = [{"role": "user", "content": "the cat"}]
    found = harness.generate_until(prompts([harness.apply_chat_template(said)], max_gen_toks=8))
    assert found == [model.reply(said, max_tokens=8, temperature=0).completion]
    assert harness.tokenizer_name.startswith("sfumato-") and "user" in (harness.chat_template(True) or "")
    assert harness.chat_template(False) is None


# --- keeping answers


def test_a_run_that_was_stopped_goes_on_to_the_same_answers(tmp_path: Path):
    keep = tmp_path / "answers.jsonl"

    def run(seed: int = 0) -> tuple[list, list, list, Harness]:
        harness = Harness(build(dtype=torch.float32), samples=4, batch_size=3, keep=keep, seed=seed)
        found = (
            harness.loglikelihood(questions()),
            harness.loglikelihood_rolling(rolling(TEXT, "the")),
            harness.generate_until(prompts(["the", "mat"], max_gen_toks=6)),
        )
        harness.answers.close()
        return *found, harness

    *first, harness = run()
    whole = keep.read_bytes()
    costs = {kind: (cost.requests, cost.nfe, cost.tokens) for kind, cost in harness.answers.costs.items()}
    for kept in (0, 2, 5, 8, 10, 11):
        keep.write_bytes(b"".join(whole.splitlines(keepends=True)[:kept]) + b'{"key": "torn')
        *again, harness = run()
        assert again == first
        assert {kind: (cost.requests, cost.nfe, cost.tokens) for kind, cost in harness.answers.costs.items()} == costs
        assert sum(cost.resumed for cost in harness.answers.costs.values()) <= kept
    assert len(keep.read_bytes().splitlines()) >= 11
    *other, _ = run(seed=1)
    assert other[0] != first[0]


def test_a_file_of_something_else_is_left_alone(tmp_path: Path):
    keep = tmp_path / "answers.jsonl"
    keep.write_text('{"text": "mine"}\n')
    with pytest.raises(ValueError, match=r"answers.jsonl:1: not a line that was written here \(no 'key' in it\)"):
        Harness(build(), keep=keep)
    assert keep.read_text() == '{"text": "mine"}\n'


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "exact"}, "estimator: 'exact' is not for the masked process"),
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"sampels": 3}, "unknown setting sampels; did you mean samples"),
        ({"temperature": -1.0}, "temperature: expected at least 0"),
        ({"batch_size": 0}, "batch: expected at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Harness(build(), **arguments)


# --- lm-eval's own class for the same weights


def test_llama_in_lm_evals_own_class_says_the_same(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, processors

    from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens, build_network
    from sfumato.model.hub.llama import LLAMA
    from sfumato.model.hub.reading import family_of

    ours = build("autoregressive")
    backend = Tokenizer.from_str(ours.bundle.tokenizer_json)
    start = ours.tokenizer.start_id
    backend.post_processor = processors.TemplateProcessing("<|start|> $A", special_tokens=[("<|start|>", start)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    config = transformers.LlamaConfig(
        vocab_size=ours.tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=False,
        initializer_range=0.5,
        bos_token_id=start,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    theirs.config.save_pretrained(tmp_path)
    family, content = family_of(tmp_path)
    description = family.describe(content, "config.json")
    bundle = BundleConfig(
        model=description.model,
        process=description.process,
        layout="causal",
        shift=1,
        tokens=SpecialTokens(0, 1, 2, start, written=True),
        tokenizer_sha256=ours.bundle.config.tokenizer_sha256,
        sampler=dict(description.sampler),
    )
    network = build_network(bundle).double()
    state = theirs.state_dict()
    network.load_state_dict({name: state[LLAMA.tensor(name)] for name in network.state_dict()})
    model = LanguageModel(Bundle(bundle, network.eval().requires_grad_(False), ours.bundle.tokenizer_json))
    # Its cache of logits takes two requests for one where both end in the same tokens, wherever they are split; and
    # with the start token before a context, it would score a second one in whole texts.
    how = {"pretrained": theirs, "tokenizer": tokenizer, "batch_size": 3, "logits_cache": False}
    reference, of_texts = HFLM(**how, add_bos_token=True), HFLM(**how, add_bos_token=False)
    mine = Harness(model, batch_size=3)
    for (value, greedy), (truth, its_greedy) in zip(
        mine.loglikelihood(questions()), reference.loglikelihood(questions(), disable_tqdm=True), strict=True
    ):
        assert value == pytest.approx(truth, rel=1e-6) and greedy == its_greedy
    texts = rolling(TEXT, "größer")
    found, truths = mine.loglikelihood_rolling(texts), of_texts.loglikelihood_rolling(texts, disable_tqdm=True)
    assert found == pytest.approx(truths, rel=1e-6)  # its rotary positions are float32


@pytest.mark.parametrize("batch", ["auto", "auto:4"])
def test_lm_evals_words_for_a_batch_size_of_its_own_choice_are_known(batch: str):
    assert Harness(build(), batch_size=batch).answers.how.batch == 8
