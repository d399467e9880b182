"""Generative perplexity: how probable written texts are to an autoregressive model, given their prompts.

The value is exact, and easily fooled: a text that repeats itself is very probable. So it never comes without the
entropy of the tokens (Zheng et al. 2024, 2409.02908, show how far the two can part), and both are to be held against
what real text scores.

Shape letters: B rows, L places in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import likelihood
from sfumato.evaluate.passage import Passage
from sfumato.evaluate.text import unigram_entropy
from sfumato.model.bundle import BundleConfig
from sfumato.process import Autoregressive
from sfumato.sample.language_model import LanguageModel
from sfumato.text.interface import AnyTokenizer
from sfumato.text.prompt import goes_on


@dataclass(frozen=True)
class Judgement:
    """What a judge says of some texts, in its own tokens; prompts are given and do not count."""

    nats_per_token: float
    """Exact; the end of a text counts as a token where the writer ended it."""
    bits_per_byte: float
    """Of the UTF-8 text: does not depend on the judge's tokenizer."""
    stderr: float
    """Standard error of nats_per_token over the texts."""
    entropy: float
    """Unigram entropy of a text in nats per token, averaged: low where texts repeat themselves."""
    entropy_together: float
    """Of all texts as one: low also where they resemble one another."""
    texts: int
    tokens: int
    bytes: int
    judge: str
    overlap: str
    """Whether the judge learned from the text that the writer learned from: itself, yes, likely, no or unknown (see
    `overlap`). Where it did, what the writer knows by heart is probable to the judge as well."""


def judge(
    model: LanguageModel, passages: Sequence[Passage], *, writer: BundleConfig | None = None, rows: int = 16
) -> Judgement:
    """Score completions given their prompts.

    Prompt and completion are tokenised apart, as they are when a model writes. An empty completion that has not ended
    has nothing to score and counts for nothing.

    Args:
        model: the judge.
        passages: what was written.
        writer: the configuration of the model that wrote, to say whether both learned from the same text.
        rows: texts in one forward pass.

    Returns:
        A `Judgement`.

    Raises:
        ValueError: the judge is not autoregressive, its context is too short, or the completions are all empty.
    """
    check_judge(model)
    batch = _batch(passages, model.tokenizer, model.bundle.config.model.context, str(model.path))
    size = sum(len(passage.completion.encode()) for passage in passages)
    if not size:
        raise ValueError(f"nothing to judge: all of {len(passages)} completions are empty; were texts written at all?")
    found = likelihood(model.denoiser, model.process, model.layout, batch, size, rows=rows, device=model.device)
    entropy = unigram_entropy([model.tokenizer.encode(passage.completion) for passage in passages])
    return Judgement(
        nats_per_token=found.nats_per_token,
        bits_per_byte=found.bits_per_byte,
        stderr=found.stderr,
        entropy=entropy.each,
        entropy_together=entropy.together,
        texts=len(passages),
        tokens=found.tokens,
        bytes=size,
        judge=str(model.path or ""),
        overlap=overlap(model.bundle.config, writer),
    )


def check_judge(model: LanguageModel) -> None:
    """Refuse a judge whose likelihood is not exact (ValueError)."""
    if not isinstance(model.process, Autoregressive):
        raise ValueError(
            f"judge: {model.path} is a {model.process.name} model, which has no exact likelihood; expected an "
            "autoregressive one, such as tiny-ar"
        )


def overlap(judge: BundleConfig, writer: BundleConfig | None) -> str:
    """Whether two models learned from the same text, as far as their configurations tell.

    Returns:
        "itself" where they are the same model; "yes" or "no" where both name their data; "likely" where they share a
        recipe, or a tokenizer, which is made from the text; else "unknown".
    """
    if writer is None:
        return "unknown"
    if writer == judge:
        return "itself"
    ours, theirs = judge.made.get("data"), writer.made.get("data")
    if isinstance(ours, list) and isinstance(theirs, list):
        return "yes" if set(map(str, ours)) & set(map(str, theirs)) else "no"
    same_recipe = bool(judge.made.get("recipe")) and judge.made.get("recipe") == writer.made.get("recipe")
    return "likely" if same_recipe or judge.tokenizer_sha256 == writer.tokenizer_sha256 else "unknown"


def _batch(passages: Sequence[Passage], tokenizer: AnyTokenizer, context: int, name: str) -> Batch:
    """One passage a row, of which only the completion is scored."""
    rows = []
    for passage in passages:
        prompt = [*tokenizer.begin, *tokenizer.encode(passage.prompt)]
        completion = tokenizer.encode(passage.completion, continued=goes_on(tokenizer, prompt, len(prompt)))
        rows.append((prompt, [*completion, *[tokenizer.end_id] * passage.ended]))
    length = max((len(prompt) + len(completion) for prompt, completion in rows), default=0)
    if length > context:
        raise ValueError(
            f"judge: {name} reads {context} tokens, but a text has {length} of its tokens; write shorter texts "
            "(max_tokens) or take a judge with a longer context"
        )
    tokens_BL = torch.full((len(rows), length), tokenizer.pad_id)
    position_BL = torch.full((len(rows), length), -1)
    editable_BL = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens_BL[i, :end] = torch.tensor(prompt + completion)
        position_BL[i, :end] = torch.arange(end)
        editable_BL[i, len(prompt) : end] = True
    document_BL = torch.where(position_BL < 0, -1, 0)
    return Batch(tokens_BL, position_BL, document_BL, editable_BL)
