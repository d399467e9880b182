"""Folders of masked and causal models of the transformers library, read as bundles."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.canvas import Where
from sfumato.cli import main
from sfumato.model.bundle import Bundle
from sfumato.model.foreign import Foreign
from sfumato.model.layout import layout_named
from sfumato.model.weights import BundleError

transformers = pytest.importorskip("transformers", reason="needs transformers, which is not installed")

from foreign import byte_pairs, save_tiny  # noqa: E402

KINDS = dict.fromkeys(("bert", "xlm-roberta", "distilbert"), "masked")
KINDS |= dict.fromkeys(("gpt2", "gemma"), "autoregressive")
PLACES = torch.arange(9)[None]


def told(bundle: Bundle, tokens_BL: torch.Tensor) -> torch.Tensor:
    network, layout = bundle.denoiser, layout_named(bundle.config.layout)
    return network.readout(network.encode(tokens_BL, where=Where(PLACES, None), layout=layout))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_a_bundle_that_tells_the_same(kind: str, tmp_path: Path):
    folder = save_tiny(tmp_path / "model", kind)
    bundle = Bundle.load(folder, dtype=torch.float64)
    config = bundle.config
    assert config.process.kind == KINDS[kind]
    assert (config.layout, config.shift) == (("full", 0) if config.process.kind == "masked" else ("causal", 1))
    assert isinstance(bundle.denoiser, Foreign) and config.foreign is not None
    tokens_BL = torch.randint(5, 60, PLACES.shape, generator=torch.Generator().manual_seed(1))
    own = getattr(transformers, config.made["family"]).from_pretrained(folder, dtype=torch.float32).double()
    wanted_BLV, found_BLV = own(input_ids=tokens_BL).logits, told(bundle, tokens_BL)
    written = [i for i in range(wanted_BLV.shape[-1]) if i not in config.tokens.never_written]
    torch.testing.assert_close(found_BLV[..., written], wanted_BLV[..., written], rtol=0, atol=1e-9)
    assert (found_BLV[..., list(config.tokens.never_written)] == float("-inf")).all()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_bundle_of_it_is_saved_and_loaded_bit_for_bit(kind: str, tmp_path: Path):
    bundle = Bundle.load(save_tiny(tmp_path / "model", kind))
    bundle.save(tmp_path / "ours")
    again = Bundle.load(tmp_path / "ours")
    assert again.config == bundle.config and again.tokenizer_json == bundle.tokenizer_json
    for name, weight in bundle.denoiser.state_dict().items():
        assert torch.equal(weight, again.denoiser.state_dict()[name])


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_bundle_of_it_goes_back_to_the_librarys_layout(kind: str, tmp_path: Path):
    """The class of the library loads it, and for us it is the same bundle."""
    Bundle.load(save_tiny(tmp_path / "public", kind)).save(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    bundle, again = Bundle.load(tmp_path / "ours"), Bundle.load(tmp_path / "back")
    assert again.config == bundle.config
    family = getattr(transformers, bundle.config.made["family"])
    own, info = family.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens_BL = torch.arange(5, 5 + PLACES.shape[1])[None]
    written = [i for i in range(bundle.config.model.vocab_size) if i not in bundle.config.tokens.never_written]
    wanted_BLV = own(input_ids=tokens_BL).logits[..., written]
    torch.testing.assert_close(told(again, tokens_BL)[..., written], wanted_BLV, rtol=0, atol=1e-3)
    assert main(["info", str(tmp_path / "back")]) == 0


def test_what_opens_and_ends_a_text(tmp_path: Path):
    tokens = Bundle.load(save_tiny(tmp_path / "model", "bert")).config.tokens
    assert (tokens.start, tokens.pad, tokens.end, tokens.mask) == (0, 1, 2, 3)
    assert set(tokens.never_written) == {0, 1, 3}


def test_a_causal_model_gets_a_mask_that_says_nothing(tmp_path: Path):
    """Where all tokens are taken it is one more, whose embedding is the mean of the others."""
    bundle = Bundle.load(save_tiny(tmp_path / "model", "gpt2"))
    size = byte_pairs().get_vocab_size()
    assert bundle.config.tokens.mask == size and bundle.config.model.vocab_size == size + 1
    table_VD = bundle.denoiser.get_parameter(bundle.denoiser.tables[0])
    assert len(table_VD) == size + 1
    torch.testing.assert_close(table_VD[size], table_VD[:size].mean(dim=0))


def test_a_row_of_the_embedding_that_no_token_has_becomes_the_mask(tmp_path: Path):
    bundle = Bundle.load(save_tiny(tmp_path / "model", "gpt2", vocab_size=320))
    assert bundle.config.tokens.mask == byte_pairs().get_vocab_size() < 320 == bundle.config.model.vocab_size


def test_old_names_and_other_heads_are_understood(tmp_path: Path):
    folder = save_tiny(tmp_path / "model", "bert")
    wanted = {name: tensor.clone() for name, tensor in Bundle.load(folder).denoiser.state_dict().items()}
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].clone()
    state |= {"cls.seq_relationship.weight": torch.ones(2, 32), "bert.pooler.dense.weight": torch.ones(32, 32)}
    state["bert.embeddings.position_ids"] = torch.arange(48)[None].float()
    save_file(state, folder / "model.safetensors")
    for name, tensor in Bundle.load(folder).denoiser.state_dict().items():
        assert torch.equal(tensor, wanted[name])


def test_a_trunk_alone_is_found_by_its_own_names(tmp_path: Path):
    folder = save_tiny(tmp_path / "model", "gpt2")
    wanted = {name: tensor.clone() for name, tensor in Bundle.load(folder).denoiser.state_dict().items()}
    state = load_file(folder / "model.safetensors")
    save_file({n.removeprefix("transformer."): t for n, t in state.items()}, folder / "model.safetensors")
    for name, tensor in Bundle.load(folder).denoiser.state_dict().items():
        assert torch.equal(tensor, wanted[name])


def broken(folder: Path, **config: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("bert", {"model_type": "mamba"}, "unknown model_type 'mamba'; known are"),
        ("bert", {"hidden_size": 33}, "config.json: BertForMaskedLM cannot be built: The hidden size"),
        ("bert", {"is_decoder": True}, "is_decoder: who sees whom is not ours to say"),
        ("bert", {"quantization_config": {"bits": 4}}, "quantised weights are not read"),
        ("bert", {"intermediate_size": 50}, r"has shape \[48\], config.json asks for \[50\]"),
        ("bert", {"num_hidden_layers": 4}, "is missing from the weights"),
        ("bert", {"num_hidden_layers": 2}, "unexpected tensor 'bert.encoder.layer.2"),
        ("gpt2", {"model_type": "bert"}, "its tokenizer_config.json names no mask_token"),
        ("gpt2", {"is_causal": False}, "it looks both ways and is no causal model, as which gpt2 is read"),
        ("gemma", {"use_bidirectional_attention": True}, "it looks both ways"),
    ],
)
def test_what_does_not_fit_is_one_line(kind: str, config: dict[str, Any], message: str, tmp_path: Path):
    folder = broken(save_tiny(tmp_path / "model", kind), **config)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(folder)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_head_for_tokens_says_so(tmp_path: Path):
    folder = save_tiny(tmp_path / "model", "bert")
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if not n.startswith("cls.")}, folder / "model.safetensors")
    with pytest.raises(BundleError, match="has no head that makes logits: expected those of BertForMaskedLM"):
        Bundle.load(folder)
