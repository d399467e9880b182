"""What config.json says, both ways, and what our network would compute otherwise than it says."""

import json
from dataclasses import replace

import public
import pytest
import torch

from sfumato.config import ModelConfig, ProcessConfig
from sfumato.model.hub.dream import DREAM
from sfumato.model.hub.family import Description, Family
from sfumato.model.hub.llada import LLADA
from sfumato.model.hub.llama import LLAMA
from sfumato.model.hub.qwen2 import QWEN2
from sfumato.model.hub.qwen3 import QWEN3
from sfumato.model.hub.reading import FAMILIES, describe, family_of
from sfumato.model.hub.sdar import SDAR
from sfumato.model.transformer import Transformer
from sfumato.model.weights import BundleError

DECODER = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 5e5,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}
EXAMPLES = {
    "llada": (LLADA, public.LLADA),
    "llada-grouped": (LLADA, public.LLADA | {"n_kv_heads": 2, "include_qkv_bias": True}),
    "dream": (DREAM, public.DREAM),
    "sdar": (SDAR, public.SDAR),
    "qwen2": (QWEN2, DECODER | {"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False}),
    "qwen3": (QWEN3, DECODER | {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": False}),
    "llama": (LLAMA, DECODER | {"model_type": "llama", "pretraining_tp": 1, "rope_interleaved": False}),
    "llama-biases": (LLAMA, DECODER | {"model_type": "llama", "attention_bias": True, "mlp_bias": True}),
    "mistral": (LLAMA, DECODER | {"model_type": "mistral", "sliding_window": None, "head_dim": 8}),
}


def described(family: Family, content: dict) -> Description:
    return family.describe(content, "config.json")


def meta(model: ModelConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(model)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_read_again(name: str):
    family, content = EXAMPLES[name]
    description = described(family, content)
    written = family.config_of(description, "config.json")
    assert described(family, json.loads(json.dumps(written))) == description


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_tensor_has_a_name_of_its_own(name: str):
    family, content = EXAMPLES[name]
    ours = meta(described(family, content).model).state_dict()
    assert len({family.tensor(one) for one in ours}) == len(ours)


@pytest.mark.parametrize(
    ("content", "parameters"),
    [(public.LLADA_8B, 8_015_581_184), (public.DREAM_7B, 7_615_616_512)],
    ids=["LLaDA-8B", "Dream-7B"],
)
def test_the_published_sizes(content: dict, parameters: int):
    family = next(family for family in FAMILIES if content["model_type"] in family.model_types)
    network = meta(described(family, content).model)
    assert network.num_parameters() == parameters
    found = {family.tensor(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == public.shapes_of(content)


def test_newer_versions_spell_rotary_positions_and_types_otherwise():
    old = described(QWEN2, DECODER | {"model_type": "qwen2"})
    rope = {"rope_theta": 5e5, "rope_type": "default"}
    new = DECODER | {"model_type": "qwen2", "rope_parameters": rope, "dtype": "float32"}
    del new["rope_theta"], new["torch_dtype"]
    assert described(QWEN2, new | {"layer_types": ["full_attention"] * 2}) == old
    assert described(QWEN2, new | {"rope_theta": 1.0}) == old  # both are there: the newer counts


@pytest.mark.parametrize(
    ("family", "more", "context"),
    [
        (LLAMA, {"model_type": "mistral", "sliding_window": 48}, 48),
        (QWEN2, {"model_type": "qwen2", "sliding_window": 48, "use_sliding_window": True}, 48),
        (QWEN2, {"model_type": "qwen2", "sliding_window": 48}, 128),
    ],
)
def test_rows_are_no_longer_than_a_window_in_use(family: Family, more: dict, context: int):
    assert described(family, DECODER | more).model.context == context


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        (LLADA, {"block_type": "sequential"}, "block_type is 'sequential'; our network computes"),
        (LLADA, {"activation_type": "swiglu"}, "activation_type is 'swiglu'"),
        (LLADA, {"include_bias": True}, "include_bias is True"),
        (LLADA, {"scale_logits": True}, "scale_logits is True"),
        (LLADA, {"attention_layer_norm": True}, "attention_layer_norm is True"),
        (LLADA, {"num_experts": 64}, "unknown key num_experts = 64; it may change what the network computes"),
        (LLADA, {"n_heads": "4"}, "n_heads: expected a whole number, got '4'"),
        (LLADA, {"d_model": 33}, "model.width must be a multiple of 2"),
        (LLADA, {"mask_token_id": None}, "mask_token_id is missing"),
        (DREAM, {"block_size": 32}, "unknown key block_size = 32"),
        (DREAM, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling of type 'yarn'"),
        (DREAM, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (SDAR, {"use_regular_causal": True}, "use_regular_causal is True"),
        (SDAR, {"attention_bias": True}, "attention_bias is True"),
        (SDAR, {"quantization_config": {"bits": 4}}, "quantised weights are not read"),
        (SDAR, {"rms_norm_eps": "small"}, "rms_norm_eps: expected a number, got 'small'"),
        (SDAR, {"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false, got 'no'"),
        (SDAR, {"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a positive number, got nan"),
        (SDAR, {"rope_theta": 0}, "rope_theta: expected a positive number, got 0"),
        (LLADA, {"n_heads": 0}, "n_heads: expected at least 1, got 0"),
        (LLADA, {"mask_token_id": -1}, "mask_token_id: expected at least 0, got -1"),
        (DREAM, {"num_attention_heads": 0}, "num_attention_heads: expected at least 1, got 0"),
        (DREAM, {"max_position_embeddings": 1}, "max_position_embeddings: expected at least 2, got 1"),
        (DREAM, {"rope_scaling": "linear"}, "rope_scaling: expected an object, got 'linear'"),
        (DREAM, {"layer_types": [3]}, "layer_types: expected a list of words, got [3]"),
    ],
)
def test_another_arithmetic_is_refused(family: Family, more: dict, message: str):
    content = {"llada": public.LLADA, "Dream": public.DREAM, "sdar": public.SDAR}[family.model_types[0]]
    with pytest.raises(BundleError) as error:
        described(family, content | more)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling of type 'llama3'"),
        ({"attention_bias": True}, "attention_bias and mlp_bias differ"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types names 'linear_attention'"),
        ({"logits_scaling": 8.0}, "unknown key logits_scaling"),
        ({"is_causal": False}, "is_causal is False"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, "rope_parameters of 'full_attention' alone"),
        ({"num_key_value_heads": 3}, "model.kv_heads must divide model.heads"),
    ],
)
def test_a_llama_that_is_not_plain_is_refused(more: dict, message: str):
    with pytest.raises(BundleError, match=message):
        described(LLAMA, DECODER | {"model_type": "llama"} | more)


def test_qwen3_says_the_size_of_its_heads():
    with pytest.raises(BundleError, match="head_dim is missing"):
        described(QWEN3, DECODER | {"model_type": "qwen3"})


def test_a_family_has_no_words_for_another_network():
    description = replace(described(*EXAMPLES["qwen3"]), mask=5)
    with pytest.raises(BundleError, match="a LLaDA model has process.kind = 'masked', this one 'autoregressive'"):
        LLADA.config_of(description, "out")
    with pytest.raises(BundleError, match="a Dream model has model.qk_norm = False, this one True"):
        DREAM.config_of(replace(description, process=ProcessConfig(), layout="full"), "out")
    with pytest.raises(BundleError, match="a Qwen3 model has process.kind = 'autoregressive', this one 'masked'"):
        QWEN3.config_of(described(*EXAMPLES["dream"]), "out")


def test_an_unknown_family(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(BundleError, match="unknown model_type 'mamba'; known are llada, Dream"):
        family_of(tmp_path)


def test_each_family_comes_with_its_process_and_its_way_to_write(tmp_path):
    for content, expected in (
        (public.LLADA, ("masked", "full", 0, "confidence")),
        (public.DREAM, ("masked", "full", 1, "entropy")),
        (public.SDAR, ("masked", "block", 0, "threshold")),
    ):
        public.write_checkpoint(tmp_path, content)
        config, _ = describe(tmp_path)
        assert (config.process.kind, config.layout, config.shift, config.sampler["sampler"]) == expected
        assert (config.tokens.mask, config.tokens.end, config.tokens.start) == (public.MASK, public.END, None)
        assert config.tokens.never_written == ()  # their code keeps all logits
