"""Local tasks through lm-eval: the figures are those of the model, and the report says how they came about."""

import hashlib
import json
import logging
from pathlib import Path

import pytest
from public import DREAM, LLADA, write_checkpoint
from scoring import build

from sfumato.config import ConfigError
from sfumato.evaluate.continuation import Continuation, continuation_nats

pytest.importorskip("lm_eval")

from sfumato.evaluate.harness import Harness  # noqa: E402
from sfumato.evaluate.machine import weights_sha256  # noqa: E402
from sfumato.evaluate.run_tasks import run_tasks  # noqa: E402
from sfumato.sample.language_model import LanguageModel  # noqa: E402

DOCUMENTS = [("the cat", ["sat", "größer", "the mat the mat"], 0), ("the mat", ["on the cat", "am"], 1)] * 3
HEAD = "dataset_path: json\ndataset_kwargs: {data_files: {test: %s}, cache_dir: %s}\n"
HEAD += "test_split: test\nmetadata: {version: 3}\n"
KINDS = {
    "choose": "output_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: choices\ndoc_to_target: right\n"
    "metric_list: [{metric: acc}]\n",
    "roll": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
    "say": "output_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{choices[right]}}'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 5}\nmetric_list: [{metric: exact_match}]\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks")
    lines = [json.dumps({"text": a, "choices": b, "right": c}) + "\n" for a, b, c in DOCUMENTS]
    (path / "data.jsonl").write_text("".join(lines))
    for name, body in KINDS.items():
        (path / f"{name}.yaml").write_text(f"task: {name}\n" + HEAD % (path / "data.jsonl", path / "cache") + body)
    return path


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_the_figures_are_the_models_and_the_report_explains_them(kind: str, folder: Path, capfd):
    model = build(kind)
    harness = Harness(model, samples=8, batch_size=4, seed=3, sampler="left_to_right")
    report = run_tasks(harness, ["choose", "roll", "say"], include_path=folder)
    right = 0
    for context, choices, label in DOCUMENTS:
        pairs = [harness.prompts.pair(context, f" {choice}") for choice in choices]
        longest = max(len(tokens) for _, tokens in pairs)
        parts = [Continuation(*pair, noise=5, longest=longest) for pair in pairs]
        nats = [float(nats_S.mean()) for nats_S in continuation_nats(model, parts, samples=4000, rows=500)]
        right += nats.index(min(nats)) == label
    if kind == "autoregressive":
        assert report["results"]["choose"]["acc,none"] == pytest.approx(right / 6)
    assert report["results"]["choose"]["acc_stderr,none"] >= 0
    assert report["results"]["roll"]["bits_per_byte,none"] > 0
    assert report["weights_sha256"] == weights_sha256(model) and len(report["weights_sha256"]) == 64
    assert report["likelihood"]["kind"] == ("bound" if kind == "masked" else "exact")
    assert report["likelihood"]["samples"] == (8 if kind == "masked" else 1)
    assert sum(report["likelihood"]["estimates"].values()) == 15 + 6
    assert report["decoder"]["settings"]["sampler"] == "left_to_right"
    assert (report["seed"], report["batch"], report["tasks"]["versions"]["roll"]) == (3, 4, 3)
    assert report["nfe"]["total"] == sum(cost["nfe"] for cost in report["cost"].values())
    assert {kind: cost["requests"] for kind, cost in report["cost"].items()} == {
        "loglikelihood": 15,
        "loglikelihood_rolling": 6,
        "generate_until": 6,
    }
    assert report["versions"].keys() == {"sfumato", "lm_eval", "datasets"} and report["machine"]["torch"]
    json.dumps(report, allow_nan=False)
    assert capfd.readouterr().out == ""


def test_a_limit_examples_and_a_path_to_a_file(folder: Path):
    model = build("autoregressive")
    report = run_tasks(Harness(model), [str(folder / "choose.yaml")], limit=2)
    assert report["cost"]["loglikelihood"]["requests"] == 5 and report["tasks"]["asked"]["limit"] == 2
    (folder / "examples.yaml").write_text(
        (folder / "choose.yaml").read_text().replace("task: choose", "task: examples") + "fewshot_split: test\n"
    )
    few = run_tasks(Harness(model), ["examples"], include_path=folder, limit=2, num_fewshot=1)
    assert few["results"]["examples"] and few["tasks"]["asked"]["num_fewshot"] == 1
    assert few["cost"]["loglikelihood"]["tokens"] == report["cost"]["loglikelihood"]["tokens"]


def test_mistakes_are_one_line(folder: Path, tmp_path: Path):
    harness = Harness(build("autoregressive"))
    with pytest.raises(ConfigError, match=r"^nowhere: no such folder"):
        run_tasks(harness, ["choose"], include_path="nowhere")
    (folder / "broken.yaml").write_text("task: broken\ndataset_path: json\noutput_type: nothing\n")
    with pytest.raises(ConfigError, match="^broken: lm-eval cannot load this: "):
        run_tasks(harness, ["broken"], include_path=folder)
    assert logging.getLogger("lm_eval").level != logging.ERROR


def test_weights_have_a_fingerprint_of_their_files(tmp_path: Path):
    model = build()
    model.bundle.save(tmp_path / "model")
    loaded = LanguageModel.load(tmp_path / "model", "cpu")
    whole = b"".join(file.read_bytes() for file in sorted((tmp_path / "model").glob("*.safetensors")))
    assert weights_sha256(loaded) == hashlib.sha256(whole).hexdigest()
    before = weights_sha256(model)
    assert before == weights_sha256(build())
    model.denoiser.embedding.weight.data[9, 0] += 1
    assert weights_sha256(model) != before


@pytest.mark.parametrize("config", [LLADA, DREAM], ids=["LLaDA", "Dream"])
def test_models_of_public_families_take_part(config: dict, folder: Path, tmp_path: Path):
    write_checkpoint(tmp_path / "model", config)
    harness = Harness(LanguageModel.load(tmp_path / "model", "cpu", "float32"), samples=2, batch_size=4)
    report = run_tasks(harness, ["choose", "roll", "say"], include_path=folder, limit=1)
    assert report["likelihood"]["estimates"] and report["cost"]["generate_until"]["tokens"] > 0
