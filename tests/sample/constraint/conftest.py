"""Random networks with a tokenizer: whatever a constraint lets through, they write."""

import hashlib
from collections.abc import Callable

import pytest
import torch

from sfumato.config import ModelConfig, ProcessConfig
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens
from sfumato.model.transformer import Transformer
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer

TEXT = 'Once there was a dog. {"name": "Tim", "age": 12, "tags": ["red", "blue"], "ok": true, "sub": {"a": null}} Größe'


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 4, 330)


@pytest.fixture(scope="session")
def random_model(tokenizer: Tokenizer) -> Callable[[str], LanguageModel]:
    """A model by its layout: full, block or causal."""
    special = SpecialTokens(tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.start_id)
    made: dict[str, LanguageModel] = {}

    def build(layout: str) -> LanguageModel:
        blocks = {"block": 16, "smallest_block": 4} if layout == "block" else {}
        config = ModelConfig(tokenizer.vocab_size, width=16, layers=1, heads=2, mlp_width=24, context=192, **blocks)
        network = Transformer(config, never_written=special.never_written)
        generator = torch.Generator().manual_seed(2)
        for parameter in network.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5, generator=generator)
        causal = layout == "causal"
        bundle = BundleConfig(
            model=config,
            process=ProcessConfig(kind="autoregressive" if causal else "masked"),
            layout=layout,
            shift=int(causal),
            tokens=special,
            tokenizer_sha256=hashlib.sha256(tokenizer.to_json().encode()).hexdigest(),
            sampler={"sampler": "left_to_right" if causal else "margin"},
        )
        return LanguageModel(Bundle(bundle, network.eval().requires_grad_(False), tokenizer.to_json()))

    def model(layout: str) -> LanguageModel:
        if layout not in made:
            made[layout] = build(layout)
        return made[layout]

    return model
