"""The product tries itself, small: it trains, stops and resumes, saves and loads, and writes with the bundled model."""

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from sfumato.config import DataConfig, ModelConfig, Recipe, Source, TokenizerConfig, TrainConfig
from sfumato.doctor.finding import Finding, judged
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.train.loop import train

_BUG = "please report it, with the output of sfumato doctor --json"
_STEPS = 24
_PROMPT = "Once upon a time there was a"
_KNOWN = (  # what the most probable tokens make of it
    "Once upon a time there was a little girl named Lily. She loved to play outside and play outside in the sun. "
    "One day, she found a shiny"
)


def training() -> Iterator[Finding]:
    """A tiny masked model: the loss falls, a run that was stopped goes on bit for bit, a bundle is read as written."""
    with tempfile.TemporaryDirectory(prefix="sfumato-doctor-") as place:
        folder = Path(place)
        recipe = _recipe(folder)
        yield _trained(recipe, folder / "whole", "the loss falls")
        yield _resumed(recipe, folder)
        yield _reloaded(folder)
        if torch.cuda.is_available():
            there = replace(recipe, train=replace(recipe.train, device="cuda", dtype="auto"))
            yield _trained(there, folder / "cuda", "and on the GPU")


def _trained(recipe: Recipe, out: Path, what: str) -> Finding:
    train(recipe, out)
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(part) / len(part) for part in (losses[:4], losses[-4:]))
    said = f"{first:.2f} -> {last:.2f} nats in {len(losses)} steps"
    return judged(last < first - 0.5, what, said, _BUG, "fail", losses=losses)


def _resumed(recipe: Recipe, folder: Path) -> Finding:
    """Throw the second half of a run away, and train that again."""
    shutil.copytree(folder / "whole", folder / "broken")
    shutil.rmtree(folder / "broken" / "checkpoints" / f"step-{_STEPS:08d}")
    shutil.rmtree(folder / "broken" / "model")
    train(recipe, folder / "broken")
    same = _equal(*(Bundle.load(folder / name / "model") for name in ("whole", "broken")))
    return judged(same, "resume", "bit-equal" if same else "other weights than without a stop", _BUG, "fail")


def _reloaded(folder: Path) -> Finding:
    bundle = Bundle.load(folder / "whole" / "model")
    bundle.save(folder / "again")
    same = _equal(bundle, Bundle.load(folder / "again"))
    return judged(same, "save and load", "bit-equal" if same else "other weights than were saved", _BUG, "fail")


def writing(device: str = "auto", dtype: str = "auto") -> Iterator[Finding]:
    """The bundled model: the same text for the same seed, with and without the cache, alone and in company."""
    torch.set_num_threads(1)  # as in training: on a busy machine several would wait for each other
    model = LanguageModel.load("tiny", device, dtype)
    drawn = [model.generate(_PROMPT, max_tokens=48, seed=1).text for _ in range(2)]
    words = " ".join(drawn[0].split())
    text = f"{words[:64]}..." if len(words) > 64 else words
    yield judged(drawn[0] == drawn[1], "same seed, same text", text, _BUG, "fail", text=drawn[0])

    exact = LanguageModel.load("tiny", device, "float32")
    cached, whole = (exact.generate(_PROMPT, max_tokens=48, seed=1, cache=name).text for name in ("exact", "none"))
    said = "the same text" if cached == whole else "another text"
    yield judged(cached == whole, "cached and uncached", said, _BUG, "fail")
    alone, _ = exact.generate([_PROMPT, "The dog"], max_tokens=48, seed=1)
    said = "the same text" if alone.text == whole else "another text"
    yield judged(alone.text == whole, "alone and in a batch", said, _BUG)
    greedy = exact.generate(_PROMPT, max_tokens=24, temperature=0, steps=24).text
    advice = "the arithmetic here differs from the one that the model was made with; harmless where it is another GPU"
    yield judged(greedy == _KNOWN, "the known text", "as published" if greedy == _KNOWN else f"got: {greedy}", advice)


def _recipe(folder: Path) -> Recipe:
    draw = random.Random(0)
    who, did, what = "Tom Lily Ben Mia".split(), "saw took found lost".split(), "ball dog hat tree".split()
    sentences = [f"{draw.choice(who)} {draw.choice(did)} the {draw.choice(what)}." for _ in range(900)]
    stories = [" ".join(sentences[n : n + 15]) for n in range(0, len(sentences), 15)]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories), encoding="utf-8")
    return Recipe(
        name="doctor",
        model=ModelConfig(width=64, layers=2, heads=2, mlp_width=128, context=64),
        tokenizer=TokenizerConfig(vocab_size=300),
        data=DataConfig((Source(str(data)),), held_out=0.1, cache=str(folder / "cache")),
        train=TrainConfig(
            steps=_STEPS,
            batch=16,
            warmup=4,
            ema=0.5,
            checkpoint_every=_STEPS // 2,
            device="cpu",
            dtype="float32",
            threads=1,
        ),
        seed=1,
    )


def _equal(one: Bundle, other: Bundle) -> bool:
    a, b = one.denoiser.state_dict(), other.denoiser.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
