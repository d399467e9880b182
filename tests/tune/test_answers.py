"""Tuning: the loss is where it should be, answers end, and the template is kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    ProcessConfig,
    Recipe,
    Source,
    TokenizerConfig,
    TrainConfig,
)
from sfumato.data.batches import Stream
from sfumato.data.cache import open_corpora
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.denoising import _thinned, described, turns
from sfumato.train.loop import train
from sfumato.tune.methods import completed, tune

ANSWERS = {"red": "a b", "blue": "c", "green": "d e f g", "black": "a d"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "talk.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": f"{colour} {i}"}, {"role": "assistant", "content": answer}]}
        for i in range(12)
        for colour, answer in ANSWERS.items()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def recipe(data: Path, tmp_path: Path, *, block: int = 0, steps: int = 3, init: str = "", **train_options) -> Recipe:
    return Recipe(
        name="small",
        init=init,
        model=ModelConfig(width=64, layers=2, heads=2, mlp_width=128, context=48, block=block),
        process=ProcessConfig(),
        tokenizer=TokenizerConfig(vocab_size=263),
        data=DataConfig((Source(str(data)),), held_out=0.1, cache=str(tmp_path / "cache")),
        train=TrainConfig(steps=steps, batch=8, warmup=2, dtype="float32", device="cpu", **train_options),
    )


def base(data: Path, tmp_path: Path, block: int) -> str:
    """A bundle of random weights to start from."""
    plain = tmp_path / "plain.txt"
    plain.write_text("red blue green black a b c d e f g 0 1 2 3 4 5 6 7 8 9\n" * 20)
    folder, _ = train(recipe(plain, tmp_path, block=block, steps=1), tmp_path / "base")
    return str(folder)


@pytest.mark.parametrize("block", [0, 8])
def test_answers_end_on_canvases_of_any_length(data: Path, tmp_path: Path, block: int):
    wanted = recipe(data, tmp_path, block=block, steps=90, init=base(data, tmp_path, block))
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None
    model = LanguageModel.load(folder, "cpu", "float32")
    right = 0
    for colour, answer in ANSWERS.items():
        for max_tokens in (8, 16, 32):
            written = model.reply([{"role": "user", "content": f"{colour} 3"}], max_tokens=max_tokens, temperature=0)
            assert written.finish_reason == "stop"
            right += written.completion == answer
    assert right == 12


def test_only_answers_are_noised_and_scored(data: Path, tmp_path: Path):
    tokenizer = Tokenizer.train(["red blue green black a b c d e f g 0123456789"], 263)
    wanted = recipe(data, tmp_path, block=8)
    config = described(wanted, tokenizer, ChatTemplate())
    corpora = open_corpora(wanted.data, tokenizer, encoder=turns(config))
    batch = Stream(corpora, [1.0], context=48, tokenizer=tokenizer, seed=0).rows(8)
    scored = batch.tokens_BL[batch.editable_BL]
    letters = {token for answer in ANSWERS.values() for token in tokenizer.encode(answer)}
    assert set(scored.tolist()) == {*letters, tokenizer.end_id}
    assert not torch.isin(batch.tokens_BL[~batch.editable_BL], torch.tensor([tokenizer.end_id])).any()
    assert ((batch.position_BL.max(dim=1).values + 1) % 8 == 0).all()  # the last piece fills its block


def test_default_blocks_keep_the_end_from_coming_early(data: Path, tmp_path: Path):
    tokenizer = Tokenizer.train(["a b"], 263)
    full, any_size = recipe(data, tmp_path), recipe(data, tmp_path, block=48)
    any_size = replace(any_size, model=replace(any_size.model, smallest_block=4))
    assert described(full, tokenizer, ChatTemplate()).sampler["block"] == 32
    assert described(any_size, tokenizer, ChatTemplate()).sampler["block"] == 8
    assert described(any_size, tokenizer, None).sampler["block"] == 16
    assert turns(described(any_size, tokenizer, ChatTemplate())).block == 8


def test_the_bundle_keeps_the_template_and_a_plain_one_has_none(data: Path, tmp_path: Path):
    init = base(data, tmp_path, 8)
    wanted = recipe(data, tmp_path, block=8, init=init)
    folder, _ = tune(wanted, tmp_path / "run")
    assert LanguageModel.load(folder, "cpu").chat_template == ChatTemplate()
    plain = LanguageModel.load(init, "cpu")
    assert plain.chat_template is None
    with pytest.raises(ValueError, match="model has no chat template"):
        plain.reply([{"role": "user", "content": "red"}])


@pytest.mark.parametrize("kind", ["autoregressive", "uniform", "insertion", "gaussian"])
def test_any_process_can_be_tuned(kind: str, data: Path, tmp_path: Path):
    def of_kind(plain: Recipe) -> Recipe:
        latent = {"latent": 8, "tied": False} if kind == "gaussian" else {}
        schedule = "cosine" if kind == "gaussian" else "linear"
        model = replace(plain.model, time_conditioning=kind in ("uniform", "gaussian"), **latent)
        return replace(plain, model=model, process=ProcessConfig(kind=kind, schedule=schedule))

    text = tmp_path / "plain.txt"
    text.write_text("red blue green black a b c d e f g 0 1 2 3 4 5 6 7 8 9\n" * 20)
    init, _ = train(of_kind(recipe(text, tmp_path, steps=1)), tmp_path / "base")
    folder, _ = tune(replace(of_kind(recipe(data, tmp_path, steps=2)), init=str(init)), tmp_path / "run")
    answer = LanguageModel.load(folder, "cpu").reply([{"role": "user", "content": "red"}], max_tokens=8)
    assert answer.text.startswith("red") and answer.stats.nfe > 0


def test_fewer_layers_start_from_evenly_chosen_ones(data: Path, tmp_path: Path):
    init = base(data, tmp_path, 0)
    wanted = recipe(data, tmp_path, init=init, lr=0.0, matrix_lr=0.0, ema=0.0)
    for layers, chosen in ((1, [0]), (2, [0, 1])):
        one = replace(wanted, model=replace(wanted.model, layers=layers))
        folder, _ = tune(one, tmp_path / f"run{layers}")
        new, old = (LanguageModel.load(path, "cpu").denoiser.state_dict() for path in (folder, init))
        for i, j in enumerate(chosen):
            torch.testing.assert_close(new[f"blocks.{i}.gate.weight"], old[f"blocks.{j}.gate.weight"])
    layers = {f"blocks.{i}.x": torch.tensor(i) for i in range(6)}
    assert [int(t) for t in _thinned(layers, 6, 4).values()] == [0, 2, 3, 5]


def test_a_run_that_was_stopped_goes_on_bit_for_bit(data: Path, tmp_path: Path):
    init = base(data, tmp_path, 8)
    whole, _ = tune(recipe(data, tmp_path, block=8, steps=6, init=init, checkpoint_every=2), tmp_path / "whole")

    class Stop(Exception):
        pass

    class Watcher:
        def started(self, *args):
            pass

        def stepped(self, record):
            if record["step"] == 4:
                raise Stop

    wanted = recipe(data, tmp_path, block=8, steps=6, init=init, checkpoint_every=2)
    with pytest.raises(Stop):
        tune(wanted, tmp_path / "parts", watcher=Watcher())
    parts, _ = tune(wanted, tmp_path / "parts")
    a, b = (LanguageModel.load(path, "cpu").denoiser.state_dict() for path in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_mistakes_are_one_line(data: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="init: expected the model to tune"):
        tune(recipe(data, tmp_path), tmp_path / "run")
    init = base(data, tmp_path, 0)
    plain = tmp_path / "plain.txt"
    with pytest.raises(ValueError, match="expected conversations"):
        tune(recipe(plain, tmp_path, init=init), tmp_path / "run")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": [{"role": "robot", "content": "x"}]}\n')
    with pytest.raises(ValueError, match=r"broken.jsonl:1: message 0 has role 'robot'"):
        tune(recipe(broken, tmp_path, init=init), tmp_path / "run")
    silent = tmp_path / "silent.jsonl"
    silent.write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    with pytest.raises(ValueError, match="no text in it"):
        tune(recipe(silent, tmp_path, init=init), tmp_path / "run")


def test_the_bundled_model_answers_and_ends():
    model = LanguageModel.load("tiny-chat", "cpu")
    assert model.chat_template == ChatTemplate()
    asked = [{"role": "user", "content": "Who are you?"}]
    for seed in range(3):
        answer = model.reply(asked, max_tokens=64, seed=seed)
        assert answer.finish_reason == "stop" and "Sfumato" in answer.completion
    asked += [{"role": "assistant", "content": "I am Sfumato."}, {"role": "user", "content": "Thank you!"}]
    answer = model.reply(asked, max_tokens=32)
    assert answer.finish_reason == "stop" and answer.completion.strip()


def test_a_recipe_that_says_nothing_of_the_network_takes_that_of_its_init(data: Path, tmp_path: Path):
    init = base(data, tmp_path, 8)
    silent = replace(recipe(data, tmp_path), init=init, model=ModelConfig())
    found, there = completed(silent).model, Bundle.load(Path(init)).config.model
    assert replace(found, vocab_size=there.vocab_size) == there
    folder, _ = tune(replace(silent, train=replace(silent.train, steps=1)), tmp_path / "run")
    assert folder is not None and Bundle.load(folder).config.model == there


def test_the_end_of_an_earlier_turn_does_not_end_an_answer():
    model = LanguageModel.load("tiny-chat", "cpu", "float32")
    talk = [("user", "Hello!"), ("assistant", "Hello! What can I do for you?"), ("user", "Tell me a story, please.")]
    answer = model.reply([{"role": role, "content": content} for role, content in talk], max_tokens=6, seed=1)
    assert (answer.finish_reason, answer.stats.committed) == ("length", 6)
