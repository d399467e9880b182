"""Tiny checkpoints of public families, as their own code would write them: names, keys and files are spelt out here."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
END, MASK, START = 256, 257, 258
VOCABULARY = 260

LLADA = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_size": VOCABULARY,
    "eos_token_id": END,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "init_fn": "mitchell",
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 64,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "pad_token_id": END,
    "precision": "amp_bf16",
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "use_cache": False,
    "vocab_size": VOCABULARY,
    "weight_tying": False,
}
LLADA_8B = LLADA | {
    "d_model": 4096,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "vocab_size": 126464,
}
DREAM = {
    "model_type": "Dream",
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": END,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 64,
    "max_window_layers": 28,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": END,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}
DREAM_7B = DREAM | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
SDAR = {
    "model_type": "sdar",
    "architectures": ["SDARForCausalLM"],
    "attention_bias": False,
    "block_size": 4,
    "eos_token_id": END,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}


def llada_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a LLaDA checkpoint."""
    width, inner, rows = config["d_model"], config["mlp_hidden_size"], config["embedding_size"]
    narrow = width // config["n_heads"] * config["n_kv_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.transformer.wte.weight": (rows, width)}
    for layer in range(config["n_layers"]):
        block = f"model.transformer.blocks.{layer}"
        shapes |= {f"{block}.{name}.weight": (width,) for name in ("attn_norm", "ff_norm")}
        shapes |= {f"{block}.{name}.weight": (width, width) for name in ("q_proj", "attn_out")}
        shapes |= {f"{block}.{name}.weight": (narrow, width) for name in ("k_proj", "v_proj")}
        shapes |= {f"{block}.{name}.weight": (inner, width) for name in ("ff_proj", "up_proj")}
        shapes[f"{block}.ff_out.weight"] = (width, inner)
    return shapes | {"model.transformer.ln_f.weight": (width,), "model.transformer.ff_out.weight": (rows, width)}


def qwen_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint of Dream (biases) or SDAR (normalised queries and keys)."""
    width, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim", width // config["num_attention_heads"])
    wide, narrow = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, width)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
        for name, size in (("q", wide), ("k", narrow), ("v", narrow)):
            shapes[f"{block}.self_attn.{name}_proj.weight"] = (size, width)
            if config["model_type"] == "Dream":
                shapes[f"{block}.self_attn.{name}_proj.bias"] = (size,)
        if config["model_type"] == "sdar":
            shapes |= {f"{block}.self_attn.{name}_norm.weight": (head,) for name in "qk"}
        shapes[f"{block}.self_attn.o_proj.weight"] = (width, wide)
        shapes |= {f"{block}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (width, inner)
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (rows, width)}


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0, dtype: torch.dtype = torch.float32) -> dict:
    """Weights under which every position and every layer matters."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1 and not name.endswith("bias"):
            state[name] = 1 + 0.2 * noise
        else:  # the head is larger: logits with a spread of some nats
            state[name] = (
                noise * (2.0 if name.endswith(("lm_head.weight", "ff_out.weight")) else 1.0) * shape[-1] ** -0.5
            )
        state[name] = state[name].to(dtype)
    return state


def write_tokenizer(folder: Path, *, chat: str | None = None, start: bool = False) -> None:
    """A tokenizer of single bytes and three special tokens."""
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|mask|>", "<|begin|>"])
    if start:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", START)]
        )
    backend.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ({"chat_template": chat} if chat else {})))


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return llada_shapes(config) if config["model_type"] == "llada" else qwen_shapes(config)


def write_checkpoint(
    folder: Path, config: dict[str, Any], *, seed: int = 0, dtype: torch.dtype = torch.float32, shards: int = 1
) -> dict[str, Tensor]:
    """A folder as a family publishes it; its tensors under the family's names."""
    folder.mkdir(parents=True, exist_ok=True)
    state = random_state(shapes_of(config), seed, dtype)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(state)
    listed = {}
    for number in range(shards):
        part = names[number::shards]
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        listed |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": listed}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(folder)
    return state
