"""Dream, and DiffuCoder: Qwen2's network, bidirectional, its predictions one place behind (Ye et al. 2025)."""

from typing import Any

from sfumato.config import ProcessConfig
from sfumato.model.hub.family import Description, Family, Keys
from sfumato.model.hub.llama import TENSORS, read_decoder, write_decoder


def _read(keys: Keys) -> Description:
    keys.only("attention_bias", True, False)  # its code does not read it: the biases are always there
    keys.only("use_mrope", False)
    return Description(
        read_decoder(keys, qkv_bias=True),
        ProcessConfig(kind="masked", objective="elbo"),
        layout="full",
        shift=1,
        sampler={
            "sampler": "entropy",
            "judged": "filtered",
            "pace": "dream",
            "temperature": 0.2,
            "top_p": 0.95,
            "tokens_per_step": 1.0,
        },
        mask=keys.integer("mask_token_id", at_least=0),
    )


def _write(description: Description) -> dict[str, Any]:
    return {
        "architectures": ["DreamModel"],
        **write_decoder(description.model),
        "mask_token_id": description.mask,
        "use_sliding_window": False,
        "sliding_window": None,
    }


DREAM = Family("Dream", ("Dream", "dream"), _read, _write, TENSORS, byte_level=True)
