"""A whole run, from a recipe to a bundle."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sfumato.config import Recipe
from sfumato.data.cache import Corpus
from sfumato.data.sources import content_key
from sfumato.model.bundle import Bundle
from sfumato.train.loop import train

Make = Callable[..., Recipe]
Column = Callable[[Path, str], list[Any]]


@pytest.mark.parametrize(
    "process, layout",
    [({}, "full"), ({"kind": "autoregressive"}, "causal"), ({"objective": "elbo", "schedule": "cosine"}, "full")],
    ids=["cross_entropy", "autoregressive", "elbo"],
)
def test_the_loss_falls_and_a_bundle_comes_out(
    tmp_path: Path, recipe: Make, text: Path, column: Column, process: dict, layout: str
) -> None:
    folder, number = train(recipe(process=process, steps=50, checkpoint_every=50), tmp_path)
    assert (folder, number) == (tmp_path / "model", 0)
    losses = column(tmp_path, "loss")
    assert len(losses) == 50 and sum(losses[-10:]) < 0.75 * sum(losses[:10])
    assert column(tmp_path, "tokens")[-1] == 50 * 8 * 32
    bundle = Bundle.load(folder)
    assert bundle.config.layout == layout and bundle.config.shift == (layout == "causal")
    made = dict(bundle.config.made)
    assert made.pop("data") == [content_key(source) for source in recipe().data.sources]
    assert made == {
        "recipe": "small", "steps": 50, "tokens": 50 * 8 * 32, "seed": 5, "torch": torch.__version__
    }  # fmt: skip
    assert bundle.tokenizer_json == (text / "tokenizer.json").read_text(encoding="utf-8")


def test_the_bundle_holds_the_average_in_bfloat16(tmp_path: Path, recipe: Make) -> None:
    train(recipe(steps=3), tmp_path)
    kept = load_file(tmp_path / "checkpoints" / "step-00000003" / "tensors.safetensors")
    for name, value in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(value, kept[f"average/{name}"].bfloat16())
    assert not torch.equal(kept["average/embedding.weight"], kept["weight/embedding.weight"])


def test_evaluations_samples_and_the_card_come_from_the_caller(
    tmp_path: Path, recipe: Make, watch: Callable, column: Column
) -> None:
    calls: list[tuple[str, int]] = []

    def evaluate(bundle: Bundle, corpora: list[Corpus]) -> dict[str, float]:
        calls.append(("evaluate", bundle.config.made["steps"]))
        assert len(corpora[0].held_out) > 0 and not bundle.denoiser.training
        return {"held_out": 0.5}

    def sample(bundle: Bundle) -> str:
        calls.append(("sample", bundle.config.made["steps"]))
        return "Tom — ü"

    started: list[Any] = []
    seen: list[int] = []
    watcher = watch(lambda record: seen.append(record["step"]), lambda *found: started.extend(found))
    folder, _ = train(
        recipe(steps=7, evaluate_every=3, sample_every=2),
        tmp_path,
        watcher=watcher,
        evaluate=evaluate,
        sample=sample,
        card=lambda bundle, corpora: f"# {bundle.config.made['recipe']}\n",
    )
    assert calls == [
        ("sample", 2), ("evaluate", 3), ("sample", 4), ("evaluate", 6), ("sample", 6), ("evaluate", 7)
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out" in line] == [3, 6, 7]
    samples = (tmp_path / "samples.txt").read_text(encoding="utf-8")
    assert samples == "".join(f"--- step {step}\nTom — ü\n" for step in (2, 4, 6))
    assert folder is not None and Bundle.load(folder).card == "# small\n"
    assert seen == list(range(1, 8)) and started[:2] == [0, 7]


def test_watching_changes_nothing(tmp_path: Path, recipe: Make, outcome: Callable) -> None:
    def disturb(bundle: Bundle, *others: Any) -> Any:
        torch.manual_seed(0)
        torch.rand(3)
        return {} if others else ""

    train(recipe(steps=5), tmp_path / "plain")
    train(recipe(steps=5, evaluate_every=1, sample_every=1), tmp_path / "watched", evaluate=disturb, sample=disturb)
    assert outcome(tmp_path / "plain") == outcome(tmp_path / "watched")


@pytest.mark.parametrize("model", [{}, {"layers": 2, "kv_heads": 1, "time_conditioning": True}])
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, recipe: Make, outcome: Callable, model: dict) -> None:
    for checkpointing in (False, True):
        train(recipe(steps=6, model=model, checkpointing=checkpointing), tmp_path / str(checkpointing))
    assert outcome(tmp_path / "False") == outcome(tmp_path / "True")


def test_a_finished_run_is_finished(tmp_path: Path, recipe: Make, watch: Callable, outcome: Callable) -> None:
    train(recipe(steps=3), tmp_path)
    before, seen = outcome(tmp_path), []
    assert train(recipe(steps=3), tmp_path, watcher=watch(seen.append)) == (tmp_path / "model", 0)
    assert seen == [] and outcome(tmp_path) == before


def test_signals_are_given_back(tmp_path: Path, recipe: Make) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(recipe(steps=1), tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(ValueError, match=r"^model.vocab_size: got 300, the tokenizer has 290; leave it at 0$"):
        train(recipe(model={"vocab_size": 300}), tmp_path)


def test_a_run_without_data_is_one_line(tmp_path: Path, recipe: Make, text: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    asked = recipe()
    empty = replace(asked.data, sources=(replace(asked.data.sources[0], path=str(tmp_path / "empty.jsonl")),))
    with pytest.raises(ValueError, match="no text in it|no data to train on") as caught:
        train(replace(asked, data=empty), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_a_run_on_the_gpu_stops_and_goes_on(tmp_path: Path, recipe: Make, watch: Callable, column: Column) -> None:
    asked = recipe(steps=10, device="cuda", dtype="bfloat16", optimizer="muon")

    def stop(record: dict) -> None:
        if record["step"] == 5:
            signal.raise_signal(signal.SIGTERM)

    assert train(asked, tmp_path, watcher=watch(stop)) == (None, signal.SIGTERM)
    assert train(asked, tmp_path) == (tmp_path / "model", 0)
    assert column(tmp_path, "step") == list(range(1, 11)) and column(tmp_path, "skipped")[-1] == 0
    assert Bundle.load(tmp_path / "model", "cuda", torch.bfloat16).denoiser.embedding.weight.is_cuda


def test_a_run_that_gets_no_better_stops_and_keeps_its_best(tmp_path: Path, recipe: Make) -> None:
    figures, seen = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0}, []

    def evaluate(bundle: Bundle, corpora: list[Corpus]) -> dict[str, float]:
        seen.append(bundle.config.made["steps"])
        return {"held_out_nats_per_token": figures[bundle.config.made["steps"]]}

    patient = recipe(steps=20, evaluate_every=2, checkpoint_every=100, patience=2)
    folder, _ = train(patient, tmp_path, evaluate=evaluate)
    assert folder is not None and seen == [2, 4, 6, 8]
    assert Bundle.load(folder).config.made["steps"] == 4
    again, _ = train(patient, tmp_path, evaluate=evaluate)  # a run that is over stays over
    assert again == folder and seen == [2, 4, 6, 8]


def test_patience_survives_a_stop(tmp_path: Path, recipe: Make) -> None:
    class Stop:
        def started(self, *_: Any) -> None: ...

        def stepped(self, record: dict[str, Any]) -> None:
            if record["step"] == 5:
                signal.raise_signal(signal.SIGTERM)

    def evaluate(bundle: Bundle, corpora: list[Corpus]) -> dict[str, float]:
        return {"held_out_nats_per_token": 1.0 + abs(bundle.config.made["steps"] - 4)}

    patient = recipe(steps=20, evaluate_every=2, patience=2)
    assert train(patient, tmp_path, evaluate=evaluate, watcher=Stop())[0] is None
    folder, _ = train(patient, tmp_path, evaluate=evaluate)
    assert folder is not None and Bundle.load(folder).config.made["steps"] == 4
