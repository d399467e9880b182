"""A tiny recipe with real text, and a model trained from it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main

RECIPE = """
name = "mini"
seed = 3
[model]
width = 32
layers = 1
heads = 2
mlp_width = 48
context = 32
[tokenizer]
vocab_size = 320
[data]
sources = [{ path = "stories.jsonl" }]
held_out = 0.1
cache = "%s"
[train]
steps = 4
batch = 4
warmup = 2
device = "cpu"
dtype = "float32"
threads = 1
checkpoint_every = 2
sample_every = 3
sample_prompt = "The cat"
"""


def stories(count: int) -> list[str]:
    who, what = ("cat", "dog", "girl", "boy", "bird"), ("sat", "ran", "slept", "sang")
    return [f"The {who[n % 5]} {what[n % 4]} {n} times. Then it went to house {n * 7 % 31}." for n in range(count)]


def make_recipe(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in stories(60))
    (folder / "stories.jsonl").write_text(lines, encoding="utf-8")
    path = folder / "mini.toml"
    path.write_text(RECIPE % (folder / "cache").as_posix(), encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make_recipe(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; do not write into it."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(make_recipe(folder)), "--out", str(folder / "run")]) == 0
    return folder / "run"


def make_tuning(folder: Path, init: Path) -> Path:
    """A recipe that tunes a model of `make_recipe` on conversations."""
    path = make_recipe(folder)
    path.write_text(f'init = "{init.as_posix()}"\n' + path.read_text().replace("stories.jsonl", "talk.jsonl"))
    words = [f"The {who} sang {n} times." for n in range(20) for who in ("cat", "dog")]
    talk = [[("user", "Tell me."), ("assistant", word), ("user", "And?"), ("assistant", "The end.")] for word in words]
    lines = [json.dumps({"messages": [{"role": r, "content": c} for r, c in chat]}) + "\n" for chat in talk]
    (folder / "talk.jsonl").write_text("".join(lines))
    return path


@pytest.fixture
def tuning(trained: Path, tmp_path: Path) -> Path:
    return make_tuning(tmp_path, trained / "model")


@pytest.fixture(scope="session")
def tuned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tune`; do not write into it."""
    folder = tmp_path_factory.mktemp("tuned")
    assert main(["tune", str(make_tuning(folder, trained / "model")), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail as a user's mistake does: code 2 and one line; returns the line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("sfumato: ")
        return captured.err.removeprefix("sfumato: ").rstrip("\n")

    return run


WRITTEN = "Once upon a time there was a little mouse. It had a red ball and a {brace}. The end. "


def save_bundle(folder: Path, kind: str, chat: bool = False) -> Path:
    """A model with random weights, that never ends a text."""
    import torch

    from sfumato.config import ModelConfig, ProcessConfig
    from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens
    from sfumato.model.transformer import Transformer
    from sfumato.text.chat import ChatTemplate
    from sfumato.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([WRITTEN * 2], 305)
    special = SpecialTokens(tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.start_id)
    model = ModelConfig(vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, mlp_width=48, context=96)
    denoiser = Transformer(model, never_written=(special.mask, special.pad, special.start))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.2, generator=generator)
    autoregressive = kind == "autoregressive"
    config = BundleConfig(
        model=model,
        process=ProcessConfig(kind=kind),
        layout="causal" if autoregressive else "full",
        shift=int(autoregressive),
        tokens=special,
        tokenizer_sha256=tokenizer.fingerprint,
        sampler={"sampler": "left_to_right"} if autoregressive else {},
        chat=ChatTemplate(default_system="Be kind.").to_dict() if chat else None,
    )
    Bundle(config, denoiser.eval().requires_grad_(False), tokenizer.to_json()).save(folder)
    return folder


@pytest.fixture(scope="session")
def masked_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("bundles") / "masked", "masked")


@pytest.fixture(scope="session")
def autoregressive_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("bundles") / "autoregressive", "autoregressive")


@pytest.fixture(scope="session")
def chat_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("bundles") / "talker", "masked", chat=True)


GAUSSIAN = """
--model.latent 8 --model.time_conditioning true --model.tied false --model.self_conditioning true
--process.kind gaussian --process.schedule cosine --train.prompts 0.5
"""


@pytest.fixture(scope="session")
def gaussian_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained bundle that noises embeddings."""
    folder = tmp_path_factory.mktemp("gaussian")
    assert main(["train", str(make_recipe(folder)), "--out", str(folder / "run"), *GAUSSIAN.split()]) == 0
    return folder / "run" / "model"
