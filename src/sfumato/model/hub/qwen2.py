"""Qwen2 and Qwen2.5: Llama's layout, with biases of queries, keys and values."""

from dataclasses import replace
from typing import Any

from sfumato.model.hub.family import Description, Family, Keys
from sfumato.model.hub.llama import AUTOREGRESSIVE, TENSORS, read_decoder, write_decoder


def _read(keys: Keys) -> Description:
    keys.only("attention_bias", True)
    keys.only("use_mrope", False)
    keys.only("is_causal", True)
    return replace(AUTOREGRESSIVE, model=read_decoder(keys, qkv_bias=True))


def _write(description: Description) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        **write_decoder(description.model),
        "use_sliding_window": False,
        "sliding_window": None,
    }


QWEN2 = Family("Qwen2", ("qwen2",), _read, _write, TENSORS, byte_level=True)
