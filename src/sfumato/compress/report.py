"""A smaller model beside the one that it was made from: quality, memory and speed.

Both predict the same text under the same noise, so the difference is far surer than either figure; and both write the
same texts in turn, so that whatever else the machine does falls on both.

Shape letters: B sequences in a forward pass, R rows of text, S samples of a row, T bins of noise levels, L row length,
N scored positions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data.batches import Batch
from sfumato.evaluate.compare import check_prompts, settings_for, write_all
from sfumato.evaluate.likelihood import noised_rows, ratio_stderr, token_nats
from sfumato.evaluate.memory import weight_bytes
from sfumato.model.adapter import read_adapter
from sfumato.model.weights import weight_files
from sfumato.process import Autoregressive, Gaussian
from sfumato.sample.language_model import LanguageModel

BINS = 4  # of noise levels
Progress = Callable[[int, int], None]  # parts done, parts


@dataclass(frozen=True)
class Beside:
    """A figure of both models."""

    original: float
    compressed: float
    difference: float
    stderr: float | None
    """Of the difference, as an estimate for all text of this kind; None where a single row cannot tell."""


@dataclass(frozen=True)
class Level:
    """What tokens cost at some noise levels, nats per token: the bound is the average over all levels."""

    low: float
    high: float
    nats: Beside


@dataclass(frozen=True)
class Quality:
    """How well both predict text that nothing was chosen by."""

    kind: str
    """exact, or bound: the true values are at most these."""
    bits_per_byte: Beside
    levels: list[Level]
    """Empty where there is no noise."""
    rows: int
    samples: int
    seed: int


@dataclass(frozen=True)
class Cost:
    """What a model needs."""

    parameters: int
    disk_bytes: int
    """Of its weight files."""
    memory_bytes: int
    """Of its weights as they are loaded, in the precision that they are used in."""
    peak_bytes: int | None
    """While it writes, weights included; None where the device does not tell."""
    nfe: float
    """Forward passes of a text."""
    tokens_per_second: float
    slowest: float
    """Tokens per second of the slowest round."""
    fastest: float


@torch.inference_mode()
def quality(
    original: LanguageModel,
    compressed: LanguageModel,
    batch: Batch,
    total_bytes: int,
    *,
    samples: int = BINS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Quality:
    """Both on the same rows under the same noise.

    Args:
        original: what was compressed.
        compressed: what became of it.
        batch: held-out text.
        total_bytes: UTF-8 bytes of that text.
        samples: noisings of each row.
        seed: of the noise.
        progress: told the rows done and their number, both models together.
    """
    exact = isinstance(original.process, Autoregressive)
    samples, rows = (1 if exact else samples), len(batch.tokens_BL)

    def told(begin: int) -> Callable[[int], None]:
        return lambda done: progress(begin + done, 2 * rows) if progress else None

    old_RT, count_RT = _nats(original, batch, samples, seed, told(0))
    new_RT, _ = _nats(compressed, batch, samples, seed, told(rows))
    tokens_R = batch.editable_BL.sum(dim=1).double()
    unit = float(tokens_R.sum()) / total_bytes / math.log(2)  # bits per byte of one nat per token
    whole = _beside(old_RT.sum(dim=1) / samples, new_RT.sum(dim=1) / samples, tokens_R)
    levels = [
        Level(t / BINS, (t + 1) / BINS, _beside(old_RT[:, t], new_RT[:, t], count_RT[:, t]))
        for t in range(BINS)
        if not exact and count_RT[:, t].any()
    ]
    error = None if whole.stderr is None else whole.stderr * unit
    bits = Beside(whole.original * unit, whole.compressed * unit, whole.difference * unit, error)
    return Quality("exact" if exact else "bound", bits, levels, rows, samples, seed)


def _nats(
    model: LanguageModel, batch: Batch, samples: int, seed: int, progress: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """nats_RT, what a row costs at the levels of each bin, all samples together; and how many tokens that is for."""
    embed = model.denoiser.embed if isinstance(model.process, Gaussian) else None
    nats_RT, count_RT = torch.zeros(2, len(batch.tokens_BL), BINS, dtype=torch.float64)
    for row in range(len(batch.tokens_BL)):
        row_B, sample_B = torch.full((samples,), row), torch.arange(samples)
        part = batch.select(row_B)
        noised, where = noised_rows(model.process, model.layout, part, row_B, sample_B, samples, seed, embed)
        nats_N, gaps_B = token_nats(model.denoiser, model.process, model.layout, noised, where, model.device)
        t_BL = noised.t_BL.double().expand_as(noised.clean_BL)
        bin_BL = (t_BL * BINS).long().clamp(0, BINS - 1)
        nats_RT[row].index_add_(0, bin_BL.flatten()[noised.index_N], nats_N)
        nats_RT[row].index_add_(0, bin_BL[:, 0], gaps_B)
        count_RT[row].index_add_(0, bin_BL[part.editable_BL], torch.ones(int(part.editable_BL.sum())).double())
        progress(row + 1)
    return nats_RT, count_RT


def _beside(old_R: Tensor, new_R: Tensor, tokens_R: Tensor) -> Beside:
    old, new = float(old_R.sum() / tokens_R.sum()), float(new_R.sum() / tokens_R.sum())
    error = ratio_stderr((new_R - old_R)[:, None], tokens_R) if len(tokens_R) > 1 else None
    return Beside(old, new, new - old, error)


def costs(
    original: LanguageModel,
    compressed: LanguageModel,
    prompts: list[str],
    *,
    max_tokens: int = 64,
    batch: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Cost, Cost]:
    """What both need: as `evaluate.compare` measures it, in rounds of `batch` texts, in turn after a warm-up."""
    models = [original, compressed]
    check_prompts(models, prompts, max_tokens)
    settings = settings_for(models)
    found = write_all(models, settings, prompts, max_tokens=max_tokens, seed=seed, batch=batch, progress=progress)
    first, second = (
        Cost(
            parameters=model.denoiser.num_parameters(),
            disk_bytes=disk_bytes(model.path) if model.path else 0,
            memory_bytes=weight_bytes(model.denoiser),
            peak_bytes=written.cost.peak_bytes,
            nfe=written.cost.nfe,
            tokens_per_second=written.cost.tokens_per_second,
            slowest=written.cost.slowest,
            fastest=written.cost.fastest,
        )
        for model, written in zip(models, found, strict=True)
    )
    return first, second


def disk_bytes(folder: Path) -> int:
    """Bytes of a folder's weight files, and of an adapter those of its base, without which it is nothing."""
    adapter = read_adapter(folder)
    base = disk_bytes(adapter.find_base(folder)) if adapter else 0
    return base + sum(file.stat().st_size for file in weight_files(folder))
