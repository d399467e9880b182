"""Training a classifier of noised text, for classifier guidance.

It starts from a denoiser and learns from texts with the denoiser's own noise, at every level of it.

Shape letters: B rows, L row length, C labels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato import rng
from sfumato.model.bundle import Bundle
from sfumato.model.classifier import Classifier, ClassifierConfig
from sfumato.model.transformer import Transformer
from sfumato.process import Process, build_process
from sfumato.text.tokenizer import read_tokenizer

_ORDER, _LEVEL, _NOISE, _PART = 31, 32, 33, 34  # draw purposes
_EVERY = 10  # one text of so many is held out
LEVELS = (0.0, 0.5)  # noise at which the held-out texts are judged

Example = tuple[list[int], int]


@dataclass(frozen=True)
class Lesson:
    """How to train a classifier."""

    layers: int = 2
    """Of the denoiser's, from the bottom; 0 = all."""
    epochs: int = 3
    batch: int = 32
    rate: float = 3e-4
    """Highest learning rate of AdamW; it rises over the first tenth and falls to 0 along a cosine."""
    longest: int = 128
    """Tokens of a text that are read."""
    seed: int = 0


def train_classifier(
    bundle: Bundle,
    examples: Sequence[tuple[str, str]],
    lesson: Lesson = Lesson(),  # noqa: B008: it is frozen
    progress: Callable[[int, int, float], None] | None = None,
) -> Classifier:
    """Learn log p(label | noised text).

    Args:
        bundle: gives the tokenizer, the noise and the weights to start from.
        examples: (text, label).
        lesson: settings.
        progress: told (step, steps, loss).

    Returns:
        A classifier in evaluation mode; `config.made` holds its accuracy on held-out texts by noise level.

    Raises:
        ValueError: fewer than two labels or 20 texts, or a model without noise.
    """
    labels = tuple(sorted({label for _, label in examples}))
    if len(labels) < 2 or len(examples) < 2 * _EVERY:
        raise ValueError(
            f"classifier: got {len(examples)} texts with {len(labels)} labels, expected at least {2 * _EVERY} texts "
            "and 2 labels"
        )
    if not isinstance(bundle.denoiser, Transformer):
        raise ValueError(
            f"classifier: it starts from a network of our own, not from {bundle.denoiser.config.model_type}; use a "
            "bundle that `sfumato train` made"
        )
    rows, process = _rows(bundle, examples, labels, lesson), _process(bundle)
    held_out, rows = rows[::_EVERY], [row for i, row in enumerate(rows) if i % _EVERY]
    sizes = bundle.config.model
    sizes = replace(sizes, layers=min(lesson.layers or sizes.layers, sizes.layers))
    config = ClassifierConfig(sizes, labels, bundle.config.tokens, bundle.config.tokenizer_sha256)
    device = bundle.denoiser.embedding.weight.device
    classifier = Classifier(config).start_from(bundle.denoiser).to(device).train()
    steps = math.ceil(len(rows) / lesson.batch) * lesson.epochs
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=lesson.rate, weight_decay=0.01)
    step = 0
    for epoch in range(lesson.epochs):
        order = rng.uniform(lesson.seed, epoch, torch.arange(len(rows)), _ORDER).argsort()
        for chosen in order.split(lesson.batch):
            for group in optimiser.param_groups:
                group["lr"] = lesson.rate * _factor(step, steps)
            seeds_B = rng.mix(lesson.seed, epoch, chosen, _NOISE)
            t_B = rng.uniform(lesson.seed, epoch, chosen, _LEVEL)
            batch, label_B = [rows[i] for i in chosen.tolist()], torch.tensor([rows[i][1] for i in chosen.tolist()])
            log_p_BC = _told(classifier, process, [tokens for tokens, _ in batch], t_B, seeds_B)
            loss = torch.nn.functional.nll_loss(log_p_BC, label_B.to(device))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            if progress:
                progress(step, steps, float(loss.detach()))
    classifier.eval().requires_grad_(False)
    made = {"texts": len(rows), "steps": steps, "seed": lesson.seed}
    made |= {f"accuracy_t{t}": round(accuracy(classifier, process, held_out, t), 4) for t in LEVELS}
    config.made.update(made)
    return classifier


def accuracy(classifier: Classifier, process: Process, rows: Sequence[Example], t: float) -> float:
    """Share of the texts (tokens, label) that are told right at noise level t."""
    right = 0
    for first in range(0, len(rows), 64):
        part = rows[first : first + 64]
        t_B = torch.full((len(part),), t, dtype=torch.float64)
        seeds_B = rng.mix(first + torch.arange(len(part)), _PART)
        with torch.inference_mode():
            log_p_BC = _told(classifier, process, [tokens for tokens, _ in part], t_B, seeds_B)
        right += sum(int(a == b) for a, (_, b) in zip(log_p_BC.argmax(dim=1).tolist(), part, strict=True))
    return right / len(rows)


def _told(classifier: Classifier, process: Process, texts: Sequence[list[int]], t_B: Tensor, seeds_B: Tensor) -> Tensor:
    """Log p(label | noised text), (B, C). As in decoding, a row is a start token, the text, and ends to fill it."""
    tokens, longest = classifier.config.tokens, max(map(len, texts))
    begin = [] if tokens.start is None else [tokens.start]
    clean_BL = torch.tensor([[*begin, *text, *[tokens.end] * (longest - len(text))] for text in texts])
    position_BL = torch.arange(len(begin) + longest).expand_as(clean_BL)
    noised = process.corrupt(clean_BL, t_B[:, None], editable_BL=position_BL >= len(begin), seeds_B=seeds_B)
    device = classifier.head.weight.device
    inputs_BL, position_BL = noised.inputs_BL.to(device), position_BL.to(device)
    return classifier(inputs_BL, position_BL, classifier.read(inputs_BL, position_BL), t_B.float().to(device))


def _rows(bundle: Bundle, examples: Sequence[tuple[str, str]], labels: Sequence[str], lesson: Lesson) -> list[Example]:
    longest = min(lesson.longest, bundle.config.model.context - 1)
    encoded = read_tokenizer(bundle.tokenizer_json, bundle.config.tokens).encode_batch(text for text, _ in examples)
    number = {label: i for i, label in enumerate(labels)}
    rows = [(ids[:longest], number[label]) for ids, (_, label) in zip(encoded, examples, strict=True)]
    order = rng.uniform(lesson.seed, torch.arange(len(rows)), _PART).argsort()  # the file may be sorted by label
    return [rows[i] for i in order.tolist()]


def _process(bundle: Bundle) -> Process:
    config = bundle.config
    if config.process.kind not in ("masked", "uniform", "hybrid"):
        raise ValueError(
            f"classifier: not for the {config.process.kind} process, whose noise is no tokens; name a masked, uniform "
            "or hybrid model"
        )
    return build_process(
        config.process,
        vocab_size=config.model.vocab_size,
        mask_id=config.tokens.mask,
        never_written=config.tokens.never_written,
    )


def _factor(step: int, steps: int) -> float:
    """Of the highest learning rate: a rise over the first tenth, then a cosine to 0."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
