"""What texts mean to a model."""

from dataclasses import replace

import pytest
import torch
from bundles import make

from sfumato.canvas import Where
from sfumato.config import ProcessConfig
from sfumato.model.layout import Causal, Full
from sfumato.model.transformer import Transformer
from sfumato.sample import embedding
from sfumato.sample.embedding import embed, embedding_steps
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["the cat sat on the mat. Größe, größer, am größten. " * 4], 290)
TEXTS = ["the cat sat", "größer", "the cat sat on the mat. am größten"]


def model(kind: str = "masked", layers: int = 3, **changes) -> LanguageModel:
    bundle = make(TOKENIZER, "masked" if kind == "gaussian" else kind)
    config = replace(bundle.config.model, layers=layers, **changes)
    network = Transformer(config, never_written=(0, 2, 3))
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.4, generator=generator)
    process = ProcessConfig("gaussian", "cosine") if kind == "gaussian" else bundle.config.process
    config = replace(bundle.config, model=config, process=process)
    return LanguageModel(replace(bundle, config=config, denoiser=network.eval().requires_grad_(False)))


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_an_embedding_is_the_mean_of_the_hidden_states_of_the_tokens(kind: str):
    network = model(kind)
    for text, found_E in zip(TEXTS, network.embed(TEXTS), strict=True):
        row = torch.tensor([[3, *TOKENIZER.encode(text), 1]])
        where = Where(torch.arange(row.shape[1])[None], None)
        layout = Full() if kind == "masked" else Causal()
        hidden_LD = network.denoiser.encode(row, where=where, layout=layout, layers=2)[0]
        mean_D = hidden_LD[1:-1].mean(dim=0)
        assert torch.allclose(found_E, mean_D / mean_D.norm(), atol=1e-5)


def test_a_model_of_blocks_reads_as_it_does_what_it_has_written():
    """A block sees itself and those before it, whatever comes after."""
    bundle = model(block=4).bundle
    network = LanguageModel(replace(bundle, config=replace(bundle.config, layout="block")))
    text = TOKENIZER.encode("the cat sat on the mat. größer")[:7]  # with the start token two blocks
    hidden = {}
    for name, more in (("alone", []), ("longer", [9, 10, 11])):
        piece = embedding._Piece(0, [*text, *more])
        hidden[name] = embedding._hidden(network, [piece], 2)[0][0, 1:8]
    assert torch.allclose(hidden["alone"], hidden["longer"], atol=1e-5)


def test_half_of_the_layers_are_run_unless_another_number_is_asked_for():
    network = model()
    assert torch.equal(network.embed(TEXTS), network.embed(TEXTS, layer=2))
    assert not torch.allclose(network.embed(TEXTS, layer=3), network.embed(TEXTS), atol=1e-2)


def test_layer_0_is_a_bag_of_words():
    network = model()
    one, other = network.embed(["the cat", " cat" + "the"], layer=0)
    assert torch.allclose(one, other, atol=1e-5)
    one, other = network.embed(["the cat", " cat" + "the"])
    assert not torch.allclose(one, other, atol=1e-3)


def test_one_text_gives_a_vector_and_many_a_row_each():
    network = model()
    assert network.embed("the cat").shape == (16,)
    assert network.embed(["the cat"]).shape == (1, 16)
    assert network.embed([]).shape == (0, 16)


def test_neither_neighbours_nor_their_order_matter(monkeypatch: pytest.MonkeyPatch):
    network = model()
    texts = TEXTS * 5 + ["the " * n for n in range(1, 40)]
    together = network.embed(texts)
    assert torch.allclose(network.embed(texts[::-1]).flip(0), together, atol=1e-5)
    monkeypatch.setattr(embedding, "TOGETHER", 50)
    assert torch.allclose(network.embed(texts), together, atol=1e-5)


def test_a_text_beyond_the_context_counts_all_its_tokens():
    """In pieces of 94 tokens: two equal halves mean what one of them does."""
    network = model()
    half = TOKENIZER.encode("the cat sat on the mat. " * 30)[:94]
    one, two, rest = embed(network, [half, half * 2, half + half[:10]])
    assert torch.allclose(one, two, atol=1e-5)
    assert not torch.allclose(one, rest, atol=1e-4)


def test_fewer_dimensions_are_the_first_ones_at_length_1():
    whole, part = model().embed(TEXTS), model().embed(TEXTS, dimensions=5)
    assert torch.allclose(part, whole[:, :5] / whole[:, :5].norm(dim=1, keepdim=True), atol=1e-5)
    assert torch.allclose(whole.norm(dim=1), torch.ones(3), atol=1e-5)


def test_the_last_token_is_all_that_is_read_with_pooling_last():
    network = model("autoregressive")
    row = torch.tensor([[3, *TOKENIZER.encode("the cat")]])
    where = Where(torch.arange(row.shape[1])[None], None)
    last_D = network.denoiser.encode(row, where=where, layout=Causal(), layers=2)[0, -1]
    found_E = network.embed("the cat", pooling="last")
    assert torch.allclose(found_E, last_D / last_D.norm(), atol=1e-5)


def test_models_that_noise_embeddings_and_models_that_know_the_time_have_them_too():
    timed = model(time_conditioning=True)
    gaussian = model("gaussian", latent=8, time_conditioning=True, tied=False)
    for network in (timed, gaussian):
        assert torch.allclose(network.embed(TEXTS).norm(dim=1), torch.ones(3), atol=1e-5)


def test_others_may_run_between_forwards(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedding, "TOGETHER", 20)
    *before, last = embedding_steps(model(), [TOKENIZER.encode(text) for text in TEXTS * 3])
    assert len(before) > 2 and set(before) == {None} and last.shape == (9, 16)


def test_like_texts_are_nearer_than_unlike_ones():
    network = LanguageModel.load("tiny", "cpu", "float32")
    like, too, unlike = network.embed(
        [
            "The dog ran after the ball in the park.",
            "A puppy chased a ball outside.",
            "Mom baked bread in the oven.",
        ]
    )
    assert float(like @ too) > float(like @ unlike) + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ["a", ""]}, r"input\[1\]: the text is empty"),
        ({"text": "a", "layer": 4}, "layer: expected 0 to 3 for this model, got 4"),
        ({"text": "a", "dimensions": 0}, "dimensions: expected 1 to 16"),
        ({"text": "a", "dimensions": 17}, "dimensions: expected 1 to 16"),
        ({"text": "a", "pooling": "max"}, "pooling: expected one of mean, last"),
    ],
)
def test_mistakes_are_one_line(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        model().embed(**options)
