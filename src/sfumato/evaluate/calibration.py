"""Calibration: is a token that the network gives 70 % right in 70 % of the cases?

Samplers that write what the network is sure of, and thresholds above all, trust these probabilities. Held-out text is
noised at levels spread evenly over all of them; at each scored position the confidence is the highest probability, and
it is right where that token is the clean one.

Source: Guo et al. 2017, "On calibration of modern neural networks" (1706.04599) for the expected calibration error.

Shape letters: B sequences in a forward pass, C all sequences, L row length, N scored positions, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.model.layout import Block, Layout, numbered, two_streams
from sfumato.model.transformer import Denoiser
from sfumato.process import Autoregressive, Process

_NOISE = 31  # what a random number is for


@dataclass(frozen=True)
class Bin:
    """Positions of about the same confidence."""

    confidence: float
    """Their mean highest probability."""
    accuracy: float
    """The share of them where that token is right."""
    stderr: float
    """Standard error of accuracy less confidence: the larger one of what the rows show, whose positions are not taken
    for independent, and of what calibrated confidences imply, since a few positions may be all right by chance."""
    positions: int


@dataclass(frozen=True)
class Band:
    """Calibration at noise levels from `low` to `high` (t: 0 clean, 1 noise)."""

    low: float
    high: float
    bins: tuple[Bin, ...]
    """By confidence, ascending; those that hold nothing are left out."""
    error: float
    """Expected calibration error: mean distance of confidence and accuracy over the bins, weighted by positions."""
    floor: float
    """What `error` would be by chance alone for a perfectly calibrated network and so many positions."""
    overconfidence: float
    """Mean confidence less accuracy, all positions together; negative where the network is too modest."""
    stderr: float
    """Of the overconfidence."""
    positions: int


@torch.inference_mode()
def calibration(
    denoiser: Denoiser,
    process: Process,
    layout: Layout,
    batch: Batch,
    *,
    bands: int = 4,
    bins: int = 10,
    samples: int = 4,
    seed: int = 0,
    rows: int = 16,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Band]:
    """Measure how far the probabilities of a network can be taken at their word.

    Args:
        denoiser: in evaluation mode, on `device`.
        process: what it was trained with. Without noise (autoregressive) there is one band.
        layout: what its positions see.
        batch: held-out text, on the CPU.
        bands: parts of equal width that the noise levels are cut into.
        bins: parts of equal width that the confidences are cut into.
        samples: noisings of each row, their levels stratified.
        seed: of the noise.
        rows: sequences in one forward pass.
        device: where the denoiser is.
        progress: told the sequences done and their number after each forward pass.

    Returns:
        The bands in which something was scored, by noise level.

    Raises:
        ValueError: nothing to score, or a number out of range.
    """
    for name, value in (("bands", bands), ("bins", bins), ("samples", samples), ("rows", rows)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not bool(batch.editable_BL.any()):
        raise ValueError("nothing to calibrate on: the text holds no tokens")
    if isinstance(process, Autoregressive):
        bands, samples = 1, 1
    count = len(batch.tokens_BL) * samples
    found: list[tuple[Tensor, ...]] = []
    for begin in range(0, count, rows):
        place_B = torch.arange(begin, min(begin + rows, count))
        found.append(_predictions(denoiser, process, layout, batch, place_B, count, seed, torch.device(device)))
        if progress:
            progress(int(place_B[-1]) + 1, count)
    t_N, row_N, confidence_N, right_N = map(torch.cat, zip(*found, strict=True))
    band_N = (t_N * bands).ceil().long().clamp(1, bands) - 1
    result = []
    for i in range(bands):
        chosen_N = band_N == i
        if bool(chosen_N.any()):
            part = confidence_N[chosen_N], right_N[chosen_N], row_N[chosen_N]
            result.append(_band(i / bands, (i + 1) / bands, *part, bins))
    return result


def _predictions(
    denoiser: Denoiser,
    process: Process,
    layout: Layout,
    batch: Batch,
    place_B: Tensor,
    count: int,
    seed: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise level, row of text, highest probability (float64), and whether it is right, at each scored position.

    Sample s of row r is number s * (rows of text) + r, so that the process, which spreads the numbers evenly over the
    levels, spreads the samples of each row as well.
    """
    row_B = place_B % len(batch.tokens_BL)
    position_BL, document_BL = batch.position_BL[row_B], batch.document_BL[row_B]
    block_BL, group_BL = numbered(position_BL, layout.size) if isinstance(layout, Block) else (None, None)
    t_BL = process.times(seed, 0, place_B, count, 1 if group_BL is None else batch.tokens_BL.shape[1])
    noised = process.corrupt(
        batch.tokens_BL[row_B],
        t_BL if group_BL is None else t_BL.gather(1, group_BL),
        editable_BL=batch.editable_BL[row_B],
        seeds_B=rng.mix(place_B, seed, _NOISE),
        block_BL=group_BL,
    )
    on_device, where = noised.to(device), Where(position_BL, document_BL, block_BL).to(device)
    inputs_BL, t_BQ, read_N = on_device.inputs_BL, on_device.t_BL, on_device.read_N(where, process.shift)
    if layout.two_streams:
        index_N = on_device.index_N
        inputs_BL, where, t_BQ, read_N = two_streams(inputs_BL, on_device.clean_BL, where, t_BQ, read_N, index_N)
    hidden_ND = denoiser.encode(inputs_BL, where=where, layout=layout, t_BQ=t_BQ, read_N=read_N)
    logits_NV = denoiser.readout(hidden_ND)
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    best_N, token_N = logits_NV.softmax(dim=-1).max(dim=-1)
    right_N = token_N.cpu() == noised.target_N
    row_N = row_B[noised.index_N // batch.tokens_BL.shape[1]]
    return noised.scored(noised.t_BL), row_N, best_N.cpu().double(), right_N.double()


def _band(low: float, high: float, confidence_N: Tensor, right_N: Tensor, row_N: Tensor, bins: int) -> Band:
    bin_N = (confidence_N * bins).long().clamp(max=bins - 1)
    total, parts = len(confidence_N), []
    for i in bin_N.unique().tolist():
        chosen_N = bin_N == i
        confidence, accuracy = float(confidence_N[chosen_N].mean()), float(right_N[chosen_N].mean())
        seen = _stderr(right_N[chosen_N] - confidence_N[chosen_N], row_N[chosen_N])
        implied = math.sqrt(float((confidence_N * (1 - confidence_N))[chosen_N].sum())) / int(chosen_N.sum())
        parts.append(Bin(confidence, accuracy, max(seen, implied), int(chosen_N.sum())))
    return Band(
        low,
        high,
        tuple(parts),
        error=sum(part.positions * abs(part.accuracy - part.confidence) for part in parts) / total,
        # The mean of |x| for a normal x of mean 0 is sqrt(2 / pi) times its deviation.
        floor=math.sqrt(2 / math.pi) * sum(part.positions * part.stderr for part in parts) / total,
        overconfidence=float((confidence_N - right_N).mean()),
        stderr=_stderr(right_N - confidence_N, row_N),
        positions=total,
    )


def _stderr(residual_N: Tensor, row_N: Tensor) -> float:
    """Standard error of the mean where only the rows are independent (the ratio estimator; Cochran 1977, section 6.4).

    A single row says nothing about others: then the positions are taken for independent.
    """
    _, group_N = row_N.unique(return_inverse=True)
    if int(group_N.max()) == 0:
        group_N = torch.arange(len(row_N))
    centred_N = residual_N - residual_N.mean()
    count = int(group_N.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, group_N, centred_N)
    return math.sqrt(count / max(1, count - 1) * float(sums.square().sum())) / len(residual_N)
