"""The logits are those of the public code: of transformers' classes beside ours, and recorded ones of LLaDA and Dream.

Shape letters: B rows, L length, Q queries, K keys, D width, V vocabulary, H heads, E head width.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import public
import pytest
import torch
import torch.nn.functional as F
from public_logits import logits
from torch import Tensor

TOKENS = torch.tensor(
    [[public.START, 72, 101, 108, 108, 111, public.MASK, public.MASK, 32, 119, public.MASK, 108], [97] * 4 + [257] * 8]
)
SIZES = {
    "vocab_size": public.VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": public.END,
}
CLASSES = {
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "llama": ("Llama", {"rope_theta": 5e5}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "mistral": ("Mistral", {"sliding_window": 64, "head_dim": 8}),
}


class _Wide:
    """torch, for a module that names float32: it computes in float64 instead."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name == "float32" else getattr(torch, name)


def reference(name: str, more: dict[str, Any], folder: Path) -> Any:
    """A random network of transformers' class, saved as the library saves it."""
    library = importlib.import_module("transformers")
    network = getattr(library, f"{name}ForCausalLM")(getattr(library, f"{name}Config")(**SIZES | more))
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.2 * noise if parameter.ndim == 1 else 2 * noise * parameter.shape[1] ** -0.5
    network.eval().save_pretrained(folder)
    public.write_tokenizer(folder)
    return network


@pytest.mark.parametrize("name", CLASSES)
def test_causal_families_are_those_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kind, more = CLASSES[name]
    network = reference(kind, more, tmp_path)
    with torch.inference_mode():
        narrow = network(TOKENS).logits
        monkeypatch.setattr(importlib.import_module(type(network).__module__), "torch", _Wide())
        wide = network.double()(TOKENS).logits
    assert (logits(tmp_path, TOKENS) - narrow).abs().max() <= 1e-3
    assert (logits(tmp_path, TOKENS, torch.float64) - wide).abs().max() <= 1e-9
    assert wide.std() > 1  # every position matters


def test_sdar_is_qwen3_that_sees_its_block(tmp_path: Path):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    state = public.write_checkpoint(tmp_path, public.SDAR)
    keys = {name: public.SDAR[name] for name in (*SIZES.keys() & public.SDAR.keys(), "head_dim", "rms_norm_eps")}
    network = Qwen3ForCausalLM(Qwen3Config(**keys, rope_theta=public.SDAR["rope_theta"])).eval()
    network.load_state_dict(state)
    block_L = torch.arange(TOKENS.shape[1]) // public.SDAR["block_size"]
    hidden_LL = block_L[:, None] < block_L[None]
    mask_B1LL = torch.zeros(hidden_LL.shape).masked_fill(hidden_LL, float("-inf")).expand(2, 1, -1, -1)
    with torch.inference_mode():
        expected = network(TOKENS, attention_mask=mask_B1LL).logits
    assert (logits(tmp_path, TOKENS) - expected).abs().max() <= 1e-3


# What the authors' code gives for these checkpoints: modeling_llada.py and modeling_dream.py, in float32.
RECORDED = {
    "LLaDA": (
        public.LLADA,
        [-1.676756054, 2.96544617, 2.788854468, 0.02515137],
        [1.150209706, 1.678987625, -3.786876955, -1.80222257],
        [3.42353077, 0.965129809, -1.175133274, 0.67165983],
    ),
    "LLaDA-grouped": (
        public.LLADA | {"n_kv_heads": 2},
        [0.431137144, 1.428884145, -0.834861159, 0.33121849],
        [-1.14450993, -4.914025854, 0.097458942, 2.735460876],
        [1.891537671, -1.199164883, -0.469615054, -1.764514797],
    ),
    "Dream": (
        public.DREAM,
        [1.96787021, 0.397329899, -0.694023028, 1.559165834],
        [0.900085061, -1.747937631, -0.56508946, -3.078297454],
        [-4.074551201, 1.508135905, 0.26076059, -1.208905843],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_masked_families_give_the_logits_of_their_authors_code(name: str, tmp_path: Path):
    content, *expected = RECORDED[name]
    public.write_checkpoint(tmp_path, content)
    found = logits(tmp_path, TOKENS)
    picked = torch.stack((found[0, 0, :4], found[0, 6, 97:101], found[1, 11, 255:259]))
    assert (picked - torch.tensor(expected)).abs().max() <= 1e-3


@pytest.mark.parametrize("name", RECORDED)
def test_masked_families_give_the_logits_of_plain_formulas(name: str, tmp_path: Path):
    content = RECORDED[name][0]
    state = {name: tensor.double() for name, tensor in public.write_checkpoint(tmp_path, content).items()}
    expected = plain_llada(content, state) if "d_model" in content else plain_dream(content, state)
    assert (logits(tmp_path, TOKENS, torch.float64) - expected).abs().max() <= 1e-9


def plain_llada(config: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """LLaDA by its names and formulas, in float64."""

    def weight(name: str) -> Tensor:
        return state[f"model.transformer.{name}.weight"]

    x, eps = weight("wte")[TOKENS], config["rms_norm_eps"]
    for i in range(config["n_layers"]):
        normed = norm(x, weight(f"blocks.{i}.attn_norm"), eps)
        q, k, v = (normed @ weight(f"blocks.{i}.{one}_proj").T for one in "qkv")
        gathered = attention(q, k, v, config["n_heads"], config["n_kv_heads"], config["rope_theta"])
        x = x + gathered @ weight(f"blocks.{i}.attn_out").T
        normed = norm(x, weight(f"blocks.{i}.ff_norm"), eps)
        inner = F.silu(normed @ weight(f"blocks.{i}.ff_proj").T) * (normed @ weight(f"blocks.{i}.up_proj").T)
        x = x + inner @ weight(f"blocks.{i}.ff_out").T
    return norm(x, weight("ln_f"), eps) @ weight("ff_out").T


def plain_dream(config: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """Dream by its names and formulas, in float64; rows as the network gives them, before they are shifted."""
    x, eps = state["model.embed_tokens.weight"][TOKENS], config["rms_norm_eps"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for i in range(config["num_hidden_layers"]):
        layer = {name.removeprefix(f"model.layers.{i}."): tensor for name, tensor in state.items()}
        normed = norm(x, layer["input_layernorm.weight"], eps)
        q, k, v = (
            normed @ layer[f"self_attn.{one}_proj.weight"].T + layer[f"self_attn.{one}_proj.bias"] for one in "qkv"
        )
        gathered = attention(q, k, v, heads, kv_heads, config["rope_theta"])
        x = x + gathered @ layer["self_attn.o_proj.weight"].T
        normed = norm(x, layer["post_attention_layernorm.weight"], eps)
        inner = F.silu(normed @ layer["mlp.gate_proj.weight"].T) * (normed @ layer["mlp.up_proj.weight"].T)
        x = x + inner @ layer["mlp.down_proj.weight"].T
    return norm(x, state["model.norm.weight"], eps) @ state["lm_head.weight"].T


def norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight_D


def attention(q_BLD: Tensor, k_BLD: Tensor, v_BLD: Tensor, heads: int, kv_heads: int, theta: float) -> Tensor:
    """Everybody sees everybody; pairs (i, i + E/2) of a head turn by the angle position * theta^(-2i/E)."""

    def split(x_BLD: Tensor, parts: int) -> Tensor:
        return x_BLD.unflatten(-1, (parts, -1)).transpose(1, 2)

    def turned(x_BHLE: Tensor) -> Tensor:
        size, length = x_BHLE.shape[-1], x_BHLE.shape[-2]
        # In float32, as all of these families make their angles, whatever the precision of the rest.
        angle_LE = torch.arange(length).float()[:, None] * (1 / theta ** (torch.arange(0, size, 2).float() / size))
        turn = torch.complex(angle_LE.cos(), angle_LE.sin())
        pair = torch.complex(x_BHLE[..., : size // 2], x_BHLE[..., size // 2 :]) * turn
        return torch.cat((pair.real, pair.imag), dim=-1)

    q, k, v = split(q_BLD, heads), split(k_BLD, kv_heads), split(v_BLD, kv_heads)
    k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (turned(k), v))
    scores = turned(q) @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def test_the_logits_of_a_family_hold_in_its_own_layout_and_in_ours(tmp_path: Path):
    """A folder that was written by us is the model that was read."""
    from sfumato.model.hub.llada import LLADA
    from sfumato.model.hub.reading import read
    from sfumato.model.hub.writing import write_public

    public.write_checkpoint(tmp_path / "theirs", public.LLADA)
    config, tokenizer_json, state = read(tmp_path / "theirs")
    write_public(tmp_path / "again", config, state, tokenizer_json, "", family=LLADA)
    write_public(tmp_path / "ours", config, state, tokenizer_json, "")
    expected = logits(tmp_path / "theirs", TOKENS)
    assert torch.equal(logits(tmp_path / "again", TOKENS), expected)
    assert torch.equal(logits(tmp_path / "ours", TOKENS), expected)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "llada"
