"""LLaDA: OLMo's names, a bidirectional network and masked noise (Nie et al. 2025, 2502.09992)."""

from typing import Any

from sfumato.config import ModelConfig, ProcessConfig
from sfumato.model.hub.family import Description, Family, Keys

TENSORS = {
    "embedding": "model.transformer.wte",
    "blocks.{}.attention_norm": "model.transformer.blocks.{}.attn_norm.weight",
    "blocks.{}.attention.query": "model.transformer.blocks.{}.q_proj",
    "blocks.{}.attention.key": "model.transformer.blocks.{}.k_proj",
    "blocks.{}.attention.value": "model.transformer.blocks.{}.v_proj",
    "blocks.{}.attention.out": "model.transformer.blocks.{}.attn_out",
    "blocks.{}.mlp_norm": "model.transformer.blocks.{}.ff_norm.weight",
    "blocks.{}.gate": "model.transformer.blocks.{}.ff_proj",
    "blocks.{}.up": "model.transformer.blocks.{}.up_proj",
    "blocks.{}.down": "model.transformer.blocks.{}.ff_out",
    "final_norm": "model.transformer.ln_f.weight",
    "head": "model.transformer.ff_out",
}
# What else its code could compute; the published models have the first value.
_ONLY: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "rope": (True,),
    "rope_full_precision": (True, False),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "bias_for_layer_norm": (False,),
    "include_bias": (False,),
    "scale_logits": (False,),
    "block_group_size": (1,),
}


def _read(keys: Keys) -> Description:
    for name, good in _ONLY.items():
        keys.only(name, *good)
    for unread in ("alibi_bias_max", "attention_layer_norm_with_affine"):  # by a network without either
        keys.get(unread)
    width, heads = keys.integer("d_model"), keys.integer("n_heads")
    kv_heads = keys.integer("n_kv_heads", 1 if keys.flag("multi_query_attention") else heads)
    rows = keys.integer("vocab_size")
    model = ModelConfig(
        vocab_size=keys.integer("embedding_size", rows),
        width=width,
        layers=keys.integer("n_layers"),
        heads=heads,
        kv_heads=0 if kv_heads == heads else kv_heads,
        mlp_width=keys.integer("mlp_hidden_size", keys.integer("mlp_ratio", 4) * width),
        context=keys.integer("max_sequence_length", at_least=2),
        rope_theta=keys.real("rope_theta", 10000.0),
        norm_eps=keys.real("rms_norm_eps", 1e-5),
        tied=keys.flag("weight_tying", default=True),
        qk_norm=False,
        qkv_bias=keys.flag("include_qkv_bias"),
        scale_embeddings=False,
    )
    return Description(
        model,
        ProcessConfig(kind="masked", objective="elbo"),
        layout="full",
        shift=0,
        sampler={
            "sampler": "confidence",
            "judged": "drawn",
            "temperature": 0.0,
            "tokens_per_step": 1.0,
            "block": 32,
        },
        mask=keys.integer("mask_token_id", at_least=0),
    )


def _write(description: Description) -> dict[str, Any]:
    model = description.model
    return {
        "architectures": ["LLaDAModelLM"],
        **{name: good[0] for name, good in _ONLY.items()},
        "d_model": model.width,
        "embedding_size": model.vocab_size,
        "include_qkv_bias": model.qkv_bias,
        "mask_token_id": description.mask,
        "max_sequence_length": model.context,
        "mlp_hidden_size": model.mlp_width,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "n_heads": model.heads,
        "n_kv_heads": model.kv_heads or model.heads,
        "n_layers": model.layers,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "vocab_size": model.vocab_size,
        "weight_tying": model.tied,
    }


LLADA = Family("LLaDA", ("llada",), _read, _write, TENSORS)
