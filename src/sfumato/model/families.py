"""The classes of the `transformers` library that can be a denoiser, and how one of them is built.

Only classes that come with the installed library, never code from a model folder.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from sfumato.config import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MASKED = {
    "bert": "BertForMaskedLM",
    "camembert": "CamembertForMaskedLM",
    "data2vec-text": "Data2VecTextForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
    "electra": "ElectraForMaskedLM",
    "ernie": "ErnieForMaskedLM",
    "eurobert": "EuroBertForMaskedLM",
    "megatron-bert": "MegatronBertForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "roberta-prelayernorm": "RobertaPreLayerNormForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "xlm-roberta-xl": "XLMRobertaXLForMaskedLM",
}
CAUSAL = {
    "biogpt": "BioGptForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "falcon": "FalconForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "granite": "GraniteForCausalLM",
    "helium": "HeliumForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "opt": "OPTForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}
FAMILIES = MASKED | CAUSAL
"""By `model_type`, the class of the library that computes it; those whose logits the tests compare.

What our own network computes too (`model.hub.reading`) comes here only where a model of it is not plain.
"""


SINCE = {"eurobert": (5, 5), "megatron-bert": (5, 10), "modernbert": (5, 5)}
"""The version of the library from which a family takes our masks, where the oldest that we support does not."""


def layer_kinds(config: "PreTrainedConfig") -> set[str]:
    """The kinds of attention that the layers of a network have."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds)
    return {"sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"}


def build_class(config: Mapping[str, Any], dropout: float = 0.0) -> "PreTrainedModel":
    """The library's own network, without weights; see `Foreign`."""
    if find_spec("transformers") is None:
        raise ConfigError("this network needs transformers, not installed here: pip install 'sfumato[hub]'")
    kind = config.get("model_type", "")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(f"model_type: got {kind!r}, expected one of {', '.join(sorted(FAMILIES))}")
    import transformers

    try:
        return _built(config, getattr(transformers, FAMILIES[kind], None), dropout)
    except Exception as error:  # whatever a class of the library raises at a broken configuration
        reason = " ".join(str(error).split())
        raise ConfigError(f"{FAMILIES[kind]} cannot be built: {reason}") from None


def _built(config: Mapping[str, Any], family: Any, dropout: float) -> "PreTrainedModel":
    import transformers
    from transformers.initialization import no_init_weights

    wanted = SINCE.get(config["model_type"], (5, 0))
    if family is None or tuple(map(int, transformers.__version__.split(".")[:2])) < wanted:
        needed = ".".join(map(str, wanted))
        raise ConfigError(f"it needs transformers {needed}, here is {transformers.__version__}: pip install -U it")
    # Code and kernels of others would be fetched from elsewhere.
    sizes = {name: value for name, value in config.items() if name != "auto_map" and "_implementation" not in name}
    chosen = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(sizes)
    for name, value in chosen.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith(("pdrop", "layerdrop"))):
            setattr(chosen, name, 0.0 if name.endswith("layerdrop") else dropout)
    chosen.dtype = torch.float32
    fused = family._supports_sdpa and not getattr(chosen, "attn_logit_softcapping", None)
    chosen._attn_implementation = "sdpa" if fused else "eager"
    # Real tensors, even where others would be meta: some are in no file. Memory is taken when it is written to.
    with torch.device("cpu"), no_init_weights():
        network = family(chosen)
    network.tie_weights()
    return network
