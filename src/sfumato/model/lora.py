"""Low-rank adaptation in training: thin matrices beside those of a network, which alone learn.

`peft` puts them there; it is imported only when a recipe asks for adapters.

Source: Hu et al. 2021 (LoRA, 2106.09685).
"""

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from sfumato import rng
from sfumato.config import ConfigError, LoraConfig
from sfumato.config.tuning import LORA_TARGETS
from sfumato.model.adapter import A, B, added
from sfumato.model.bundle import Network
from sfumato.model.foreign import Foreign

_NAME = "default"  # peft's, of the only adapter
_LOW = 21  # draw purpose


def add_adapters(denoiser: Network, config: LoraConfig, seed: int) -> None:
    """Freeze a network and give it adapters, in place; until they learn they change nothing.

    Args:
        denoiser: with the weights to start from.
        config: rank at least 1.
        seed: of A, normal with variance 1 / inputs; B is zero.

    Raises:
        ConfigError: peft is not installed, or the network has no such matrices.
    """
    if find_spec("peft") is None:
        raise ConfigError("lora.rank: adapters need peft, not installed here: pip install 'sfumato[tune]'")
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyrefly: ignore[bad-argument-type]
        target_modules=_targets(denoiser, config),
        lora_dropout=config.dropout,
        fan_in_fan_out=isinstance(denoiser, Foreign) and denoiser.config.model_type == "gpt2",  # see `adapter_of`
    )
    inject_adapter_in_model(settings, denoiser, _NAME)
    for number, (name, parameter) in enumerate(denoiser.named_parameters()):
        parameter.requires_grad_("lora_" in name)
        if ".lora_A." in name:  # ours, since peft draws from torch's global generator
            places = torch.arange(parameter.numel()).view(parameter.shape)
            with torch.no_grad():
                parameter.copy_(rng.normal(rng.mix(seed, _LOW, number), places) * parameter.shape[1] ** -0.5)


def _targets(denoiser: Network, config: LoraConfig) -> list[str]:
    """Names of what gets an adapter; in a network of the library, all linear layers of its trunk."""
    if not isinstance(denoiser, Foreign):
        return list(config.targets)
    kind = denoiser.config.model_type
    if config.targets != LORA_TARGETS:
        raise ConfigError(
            f"lora.targets: {kind} has matrices of its own, of which all linear ones get an adapter; "
            "leave lora.targets at its default"
        )
    trunk = denoiser.trunk_name + "."
    from transformers.pytorch_utils import Conv1D

    return [n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear | Conv1D) and n.startswith(trunk)]


def scale_of(denoiser: nn.Module) -> float:
    """What the adapters of a network are multiplied with; 0 where it has none."""
    config = getattr(denoiser, "peft_config", {}).get(_NAME)
    return config.lora_alpha / config.r if config else 0.0


def adapter_of(denoiser: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters among weights of a network, by the names that an adapter bundle has.

    GPT-2 keeps its matrices the other way round, (inputs, outputs): W^T + scale B A is W + scale A^T B^T there, so that
    A^T is stored as B, and B^T as A.
    """
    turned = {name for name, module in denoiser.named_modules() if getattr(module, "fan_in_fan_out", False)}
    found = {}
    for name, weight in weights.items():
        for end, short, other in ((f".lora_A.{_NAME}.weight", A, B), (f".lora_B.{_NAME}.weight", B, A)):
            if name.endswith(end):
                matrix, value = name.removesuffix(end), weight.detach()
                found[matrix + (other if matrix in turned else short)] = value.T if matrix in turned else value
    return found


def merged(denoiser: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the network without adapters that computes what a network with them does.

    Args:
        denoiser: with adapters or without.
        weights: its own, or an average of them.
    """
    base = {name.replace(".base_layer.", "."): w.detach() for name, w in weights.items() if ".lora_" not in name}
    return added(base, adapter_of(denoiser, weights), scale_of(denoiser))
