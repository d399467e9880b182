"""Random models in float64 that score and write, for tests of the harness."""

from dataclasses import replace

import torch
from bundles import make

from sfumato.evaluate.continuation import Continuation
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer

TEXT = "the cat sat on the mat. Größe, größer, am größten. "


def build(kind: str = "masked", dtype: torch.dtype = torch.float64, **changes) -> LanguageModel:
    """A model whose every token matters."""
    bundle = make(Tokenizer.train([TEXT * 4], 290), kind, **changes)
    generator = torch.Generator().manual_seed(3)
    for parameter in bundle.denoiser.parameters():
        parameter.data.normal_(std=0.4, generator=generator)
    return LanguageModel(replace(bundle, denoiser=bundle.denoiser.to(dtype)))


def continuation(model: LanguageModel, prompt: str, text: str, noise: int = 0) -> Continuation:
    """A text behind a prompt, tokenised apart."""
    before = [model.tokenizer.start_id, *model.tokenizer.encode(prompt)]
    return Continuation(before, model.tokenizer.encode(text), noise)
