"""Qwen3: Llama's layout, with normalised queries and keys."""

from dataclasses import replace
from typing import Any

from sfumato.config import ModelConfig
from sfumato.model.hub.family import Description, Family, Keys
from sfumato.model.hub.llama import AUTOREGRESSIVE, TENSORS, read_decoder, write_decoder


def read_network(keys: Keys) -> ModelConfig:
    """The network, which SDAR has too."""
    keys.only("attention_bias", False)
    keys.integer("head_dim")  # its default is not width / heads
    return read_decoder(keys, qk_norm=True)


def write_network(model: ModelConfig) -> dict[str, Any]:
    """The keys that `read_network` reads."""
    return {**write_decoder(model), "attention_bias": False, "use_sliding_window": False, "sliding_window": None}


def _read(keys: Keys) -> Description:
    keys.only("is_causal", True)
    return replace(AUTOREGRESSIVE, model=read_network(keys))


def _write(description: Description) -> dict[str, Any]:
    return {"architectures": ["Qwen3ForCausalLM"], **write_network(description.model)}


QWEN3 = Family("Qwen3", ("qwen3",), _read, _write, TENSORS, byte_level=True)
