"""A tag in front of the text decides how a model that was trained with tags writes it."""

import json

import pytest

import sfumato
from sfumato.cli import main
from sfumato.data.variants import variant_of

RECIPE = """
[model]
width = 64
layers = 2
heads = 4
mlp_width = 128
context = 12
[tokenizer]
vocab_size = 420
[data]
sources = [{ path = "tagged.jsonl", response = "[{spelling}] {text}" }]
[train]
steps = 200
batch = 16
warmup = 5
device = "cpu"
dtype = "float32"
threads = 1
sample_every = 1000
"""
THINGS = ("colour", "harbour", "theatre", "neighbour", "centre", "armour")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> sfumato.LanguageModel:
    """Trained on sentences in both spellings, each with its tag, as `data clean --spelling both` writes them."""
    folder = tmp_path_factory.mktemp("tags")
    lines = [{"text": f"The {thing} is {what}."} for thing in THINGS for what in ("grey", "new", "mine", "old")]
    (folder / "plain.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clean = ["data", "clean", str(folder / "plain.jsonl"), "--near", "0", "--spelling", "both"]
    assert main([*clean, "--out", str(folder / "tagged.jsonl")]) == 0
    (folder / "tags.toml").write_text(RECIPE)
    assert main(["train", str(folder / "tags.toml"), "--out", str(folder / "run")]) == 0
    return sfumato.load(folder / "run" / "model", "cpu", "float32")


def test_the_tag_of_a_spelling_is_obeyed(model: sfumato.LanguageModel):
    """Fifteen texts for each tag; by chance half of them would have the right spelling."""
    for tag, other in (("british", "american"), ("american", "british")):
        texts = [found.text for found in model.generate([f"[{tag}] The"] * 15, max_tokens=6, steps=6, seed=1)]
        found = [variant_of(text) for text in texts]
        assert found.count(tag) >= 13 and found.count(other) <= 1, texts
