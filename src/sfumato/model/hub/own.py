"""Our own models in the layout of the transformers library: what `sfumato.model.hub.auto` gives to its Auto classes.

config.json has `model_type` "sfumato" and, under "sfumato", all that a bundle's has; tensors begin with "network.".
A network that is a class of the library keeps the class's own config.json and names, with "sfumato" beside them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sfumato.model.bundle import BundleConfig, checked_config
from sfumato.model.families import CAUSAL as CAUSAL_CLASSES
from sfumato.model.weights import BundleError

MODEL_TYPE = KEY = "sfumato"
PREFIX = "network."
CAUSAL, MASKED = "SfumatoForCausalLM", "SfumatoForMaskedLM"


def tensor(ours: str) -> str:
    """What the layout calls one of our tensors."""
    return PREFIX + ours


def read(content: Mapping[str, Any], where: str) -> BundleConfig:
    """The configuration in a config.json.

    Raises:
        BundleError: it is missing or broken.
    """
    config = content.get(KEY)
    if not isinstance(config, dict):
        raise BundleError(f'{where}: expected the model\'s configuration under "{KEY}"; write the folder again')
    return checked_config(config, where)


def write(config: BundleConfig) -> dict[str, Any]:
    """The keys of config.json.

    Raises:
        BundleError: no Auto class would compute the same.
    """
    if config.foreign is not None:
        return _foreign(config, config.foreign)
    if config.process.kind in ("gaussian", "insertion") or config.model.time_conditioning:
        raise BundleError(
            "--to hf: the Auto classes give a network tokens and nothing else; this one needs more "
            f"({config.process.kind} noise, time_conditioning {str(config.model.time_conditioning).lower()})"
        )
    model = config.model
    return {
        "architectures": [CAUSAL if config.process.kind == "autoregressive" else MASKED],
        "model_type": MODEL_TYPE,
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "max_position_embeddings": model.context,
        "bos_token_id": config.tokens.start,
        "eos_token_id": config.tokens.end,
        "pad_token_id": config.tokens.pad,
        "tie_word_embeddings": False,  # one matrix is in the file once, so there is nothing to tie
        KEY: dataclasses.asdict(config),
    }


def _foreign(config: BundleConfig, foreign: Mapping[str, Any]) -> dict[str, Any]:
    kind = foreign["model_type"]
    if config.layout != ("causal" if kind in CAUSAL_CLASSES else "full"):
        raise BundleError(
            f"--to hf: the {config.layout} layout of this model is not what the library's {kind} class computes; "
            "use --to bundle"
        )
    return {**foreign, KEY: dataclasses.asdict(config)}
