"""SDAR: Qwen3's network, writing block by block (Cheng et al. 2025, 2510.06303)."""

from dataclasses import replace
from typing import Any

from sfumato.config import ProcessConfig
from sfumato.model.hub.family import Description, Family, Keys
from sfumato.model.hub.llama import TENSORS
from sfumato.model.hub.qwen3 import read_network, write_network

_BLOCK = 4  # where config.json does not say


def _read(keys: Keys) -> Description:
    keys.only("use_regular_causal", False)
    block = keys.integer("block_size", _BLOCK)
    return Description(
        replace(read_network(keys), block=block),
        ProcessConfig(kind="masked", objective="elbo"),
        layout="block",
        shift=0,
        sampler={
            "sampler": "threshold",
            "threshold": 0.85,
            "judged": "filtered",
            "temperature": 1.0,
            "block": block,
        },
        mask=keys.get("mask_token_id"),
    )


def _write(description: Description) -> dict[str, Any]:
    return {
        "architectures": ["SDARForCausalLM"],
        **write_network(description.model),
        "block_size": description.model.block,
        "mask_token_id": description.mask,
    }


SDAR = Family("SDAR", ("sdar",), _read, _write, TENSORS, byte_level=True)
