"""Tiny random models of ours whose tokenizers are in the style of other models."""

import hashlib
from typing import Any

import torch
from foreign_tokenizers import Ids

from sfumato.config import ModelConfig, ProcessConfig
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens, build_network
from sfumato.sample.language_model import LanguageModel

ROWS = 16  # of the embedding, beyond the tokenizer's ids


def tiny_bundle(text: str, ids: Ids, *, shift: int = 0, process: str = "masked", **others: Any) -> Bundle:
    """A random network in which every position matters; it embeds more tokens than the tokenizer has."""
    import tokenizers

    size = 1 + max(tokenizers.Tokenizer.from_str(text).get_vocab().values())
    causal = process == "autoregressive"
    config = BundleConfig(
        model=ModelConfig(size + ROWS, width=16, layers=1, heads=2, mlp_width=24, context=96),
        process=ProcessConfig(kind=process),
        layout="causal" if causal else "full",
        shift=int(causal) or shift,
        tokens=SpecialTokens(ids.mask, ids.end, ids.pad, ids.start),
        tokenizer_sha256=hashlib.sha256(text.encode()).hexdigest(),
        sampler={"sampler": "left_to_right" if causal else "margin"},
        **others,
    )
    network = build_network(config)
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5, generator=generator)
    return Bundle(config, network.eval().requires_grad_(False), text)


def tiny_model(text: str, ids: Ids, **others: Any) -> LanguageModel:
    """As `tiny_bundle`, ready to use."""
    return LanguageModel(tiny_bundle(text, ids, **others))
