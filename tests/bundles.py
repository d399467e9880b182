"""A small random model as a bundle, for tests of what is built on one."""

import hashlib
from dataclasses import replace

from sfumato.config import ModelConfig, ProcessConfig
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens
from sfumato.model.transformer import Transformer
from sfumato.text.tokenizer import Tokenizer

MASK, END, PAD, START = range(4)
CONTEXT = 96


def make(tokenizer: Tokenizer, kind: str = "masked", end: float = 0.0, **changes) -> Bundle:
    """A random network; `end` is the logit of the end of the text at masked places, where others have a spread of 1."""
    config = ModelConfig(tokenizer.vocab_size, width=16, layers=1, heads=2, mlp_width=24, context=CONTEXT)
    network = Transformer(config, never_written=(MASK, PAD, START)).initialise(5)
    table_VD = network.embedding.weight.data
    if end:  # untrained layers add nothing, so that masked places read out the mask's own embedding
        table_VD[END] = end / 16**0.5 * table_VD[MASK] / table_VD[MASK].norm()
    causal = kind == "autoregressive"
    settings = BundleConfig(
        model=config,
        process=ProcessConfig(kind=kind),
        layout="causal" if causal else "full",
        shift=int(causal),
        tokens=SpecialTokens(MASK, END, PAD, START),
        tokenizer_sha256=hashlib.sha256(tokenizer.to_json().encode()).hexdigest(),
        sampler={"sampler": "left_to_right"} if causal else {"sampler": "margin", "temperature": 0.9},
    )
    network = network.eval().requires_grad_(False)
    return Bundle(replace(settings, **changes), network, tokenizer.to_json(), "# Card\n")
