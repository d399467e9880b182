"""Llama, and those that share its layout: Mistral, SmolLM, TinyLlama. Also what all families of this layout share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sfumato.config import ModelConfig, ProcessConfig
from sfumato.model.hub.family import Description, Family, Keys, Unlike

TENSORS: Mapping[str, str] = {
    "embedding": "model.embed_tokens",
    "blocks.{}.attention_norm": "model.layers.{}.input_layernorm.weight",
    "blocks.{}.attention.query": "model.layers.{}.self_attn.q_proj",
    "blocks.{}.attention.key": "model.layers.{}.self_attn.k_proj",
    "blocks.{}.attention.value": "model.layers.{}.self_attn.v_proj",
    "blocks.{}.attention.out": "model.layers.{}.self_attn.o_proj",
    "blocks.{}.attention.query_norm": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.{}.attention.key_norm": "model.layers.{}.self_attn.k_norm.weight",
    "blocks.{}.mlp_norm": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.{}.gate": "model.layers.{}.mlp.gate_proj",
    "blocks.{}.up": "model.layers.{}.mlp.up_proj",
    "blocks.{}.down": "model.layers.{}.mlp.down_proj",
    "final_norm": "model.norm.weight",
    "head": "lm_head",
}

AUTOREGRESSIVE = Description(
    ModelConfig(),
    ProcessConfig(kind="autoregressive"),
    layout="causal",
    shift=1,
    sampler={"sampler": "left_to_right"},
)


def read_decoder(keys: Keys, *, windows: bool = False, **different: bool) -> ModelConfig:
    """The network of a family with this layout.

    Args:
        keys: config.json.
        windows: whether a `sliding_window` is in use where no `use_sliding_window` says.
        different: fields of `ModelConfig` that the family decides.
    """
    width, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    kv_heads, head_width = keys.integer("num_key_value_heads", heads), keys.integer("head_dim", width // heads)
    keys.only("hidden_act", "silu")
    return ModelConfig(
        vocab_size=keys.integer("vocab_size"),
        width=width,
        layers=keys.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=0 if kv_heads == heads else kv_heads,
        head_width=0 if head_width * heads == width else head_width,
        mlp_width=keys.integer("intermediate_size"),
        context=_context(keys, windows),
        rope_theta=_rope_theta(keys),
        norm_eps=keys.real("rms_norm_eps", 1e-6),
        tied=keys.flag("tie_word_embeddings"),
        scale_embeddings=False,
        **{"qk_norm": False} | different,
    )


def write_decoder(model: ModelConfig) -> dict[str, Any]:
    """The keys that `read_decoder` reads."""
    return {
        "hidden_act": "silu",
        "hidden_size": model.width,
        "intermediate_size": model.mlp_width,
        "max_position_embeddings": model.context,
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads or model.heads,
        "head_dim": model.head_width or model.width // model.heads,
        "rms_norm_eps": model.norm_eps,
        "rope_scaling": None,
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tied,
        "vocab_size": model.vocab_size,
    }


def _context(keys: Keys, windows: bool) -> int:
    """The longest row; where a sliding window would hide what is further back, that window: inside it all is seen."""
    context, window = keys.integer("max_position_embeddings", at_least=2), keys.get("sliding_window")
    kinds = keys.names("layer_types")
    used = keys.flag("use_sliding_window", default=windows) or "sliding_attention" in kinds
    if other := set(kinds) - {"full_attention", "sliding_attention"}:
        raise Unlike(f"{keys.where}: layer_types names {sorted(other)[0]!r}, which our network does not compute")
    return min(context, keys.integer("sliding_window")) if used and window else context


def _rope_theta(keys: Keys) -> float:
    """The base of the rotary frequencies, where these are plain."""
    rope = keys.table("rope_scaling") | keys.table("rope_parameters")
    if nested := next((name for name, value in rope.items() if isinstance(value, dict)), None):
        raise Unlike(f"{keys.where}: rope_parameters of {nested!r} alone; our network rotates all layers alike")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise Unlike(
            f"{keys.where}: rope_scaling of type {kind!r}: our network has plain rotary positions only; "
            "use a model without it"
        )
    for name in ("partial_rotary_factor", "rotary_scaling_factor"):
        keys.only(name, 1.0)
        if rope.get(name, 1.0) != 1.0:
            raise Unlike(f"{keys.where}: {name} is {rope[name]!r}; our network rotates whole heads only")
    theta = keys.real("rope_theta", 10000.0)
    return Keys(rope, f"{keys.where}: rope_parameters").real("rope_theta", theta)  # as the library, this one first


def _read(keys: Keys) -> Description:
    bias = keys.flag("attention_bias")
    if keys.flag("mlp_bias") != bias:
        raise Unlike(f"{keys.where}: attention_bias and mlp_bias differ; our network has both biases or none")
    keys.only("rope_interleaved", False)
    keys.only("is_causal", True)
    return replace(AUTOREGRESSIVE, model=read_decoder(keys, windows=True, qkv_bias=bias, bias=bias))


def _write(description: Description) -> dict[str, Any]:
    bias = description.model.bias
    return {
        "architectures": ["LlamaForCausalLM"],
        **write_decoder(description.model),
        "attention_bias": bias,
        "mlp_bias": bias,
    }


LLAMA = Family("Llama", ("llama", "mistral"), _read, _write, TENSORS)
