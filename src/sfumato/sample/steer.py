"""Texts for which a reward is high, from a language model: sequential Monte Carlo with text instead of tokens."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.sample.language_model import Generation, LanguageModel
from sfumato.sample.particles import particles
from sfumato.text.prompt import text_of


@dataclass(frozen=True)
class Particle:
    """One of several weighted texts."""

    generation: Generation
    weight: float
    """Their sum is 1."""
    reward: float


def steer(
    model: LanguageModel,
    prompt: str,
    reward: Callable[[str], float],
    *,
    count: int = 16,
    strength: float = 1.0,
    every: int = 1,
    max_tokens: int = 64,
    length: int | None = None,
    template: bool = False,
    **options: Any,
) -> list[Particle]:
    """Write weighted texts whose law tends to the model's own times exp(strength * reward); see `sample.particles`.

    Args:
        model: writes.
        prompt: a prompt, or with `template` a text with holes.
        reward: of a text, prompt included; any function. It is asked about unfinished texts too, filled in.
        count: how many texts are written side by side; the error falls as 1 / count.
        strength: of the reward; 0 gives the texts of `generate`.
        every: steps between two looks at the reward, each of which costs a forward pass.
        max_tokens: as in `LanguageModel.generate`.
        length: as there.
        template: fill holes instead of continuing.
        options: as there, but nothing watches.

    Returns:
        The texts; the seed of the i-th is `seed + i`, and decides over what it wrote since it was last copied.

    Raises:
        ValueError: no particles, a reward that is not finite, or what `generate` refuses.
    """
    row = model.front.row(prompt, max_tokens, template=template, length=length)
    model.check_window(row, "steer")
    writing, texts = model._begin([row] * count, in_sight=template, **options)

    def rewards(rows: Sequence[tuple[int, ...]]) -> list[float]:
        return [reward(text_of(model.tokenizer, tokens)) for tokens in rows]

    start = time.perf_counter()
    requests = [writing.request(text) for text in texts]
    found = particles(writing.decoder, requests, rewards, strength=strength, every=every)
    writing.seconds = time.perf_counter() - start
    for text, tokens, nfe in zip(texts, found.rows, found.nfe, strict=True):
        text.sliding.tokens, text.nfe = list(tokens), text.nfe + nfe
    written = [writing.generation(text) for text in texts]
    return [Particle(*one) for one in zip(written, found.weights, found.rewards, strict=True)]
