"""How well a model predicts a text: the exact negative log-likelihood, or an upper bound on it.

A masked model is measured by the bound with a fixed mask count, whatever it was trained with: n tokens lose k of them,
k uniform in 1..n, and n / k times the nats of those k has the negative ELBO as its mean (Nie et al. 2025, LLaDA,
2502.09992, eq. 14; Sahoo et al. 2024, 2406.07524, for the bound). The counts are stratified over the samples of a row
and spread evenly over the rows, which takes most of their variance away and leaves the mean alone. In the block layout
each block has its own count, given the clean blocks before it (Arriola et al. 2025, BD3-LM, 2503.09573, eq. 8). Other
processes are measured by their own bound at stratified noise levels.

Shape letters: B sequences in a forward pass, R rows of text, S samples of a row, L row length, N scored positions,
D width, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.model.layout import Block, Layout, numbered, two_streams
from sfumato.model.transformer import Denoiser
from sfumato.process import (
    Autoregressive,
    Embed,
    Gaussian,
    Growing,
    Hybrid,
    Linear,
    Masked,
    Noised,
    Process,
    Schedule,
    Uniform,
    scorable,
)

_LEVEL, _MASKS = 11, 12  # what a random number is for
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are the evenest sequence there is


@dataclass(frozen=True)
class Likelihood:
    """The result, with all that is needed to judge it and to get it again."""

    nats_per_token: float
    """Every token of the text counts, the end of each document too."""
    bits_per_byte: float
    """Of the UTF-8 text: does not depend on the tokenizer."""
    stderr: float
    """Standard error of nats_per_token as an estimate for all text of this kind: from the choice of the text and from
    the random masks. For a single row from the masks alone."""
    kind: str
    """exact, or bound: the true value is at most this."""
    samples: int
    """Random noisings of each row; 1 where the value is exact."""
    tokens: int
    bytes: int
    seed: int
    estimator: str


@torch.inference_mode()
def likelihood(
    denoiser: Denoiser,
    process: Process,
    layout: Layout,
    batch: Batch,
    total_bytes: int,
    *,
    samples: int = 8,
    seed: int = 0,
    rows: int = 16,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Likelihood:
    """Measure how well a model predicts packed text.

    The noise of a sequence depends on (seed, row, sample) alone and each sequence is summed by itself, in float64: so
    the result depends on `rows` no more than the network's own arithmetic does.

    Args:
        denoiser: in evaluation mode, on `device`.
        process: what it was trained with.
        layout: what its positions see.
        batch: the text, on the CPU; all editable tokens count, left to right but for one that opens a document.
        total_bytes: UTF-8 bytes of that text.
        samples: random noisings of each row; more of them make a bound more precise.
        seed: of the noise.
        rows: sequences in one forward pass.
        device: where the denoiser is.
        progress: told the sequences done and their number after each forward pass.

    Raises:
        ValueError: nothing to score, or a number out of range.
    """
    tokens_R = scorable(process, batch.editable_BL, batch.position_BL).sum(dim=1)
    tokens = int(tokens_R.sum())
    if not tokens or total_bytes < 1:
        raise ValueError(f"nothing to evaluate: the text holds {tokens} tokens and {total_bytes} bytes")
    nats_RS = estimates(
        denoiser, process, layout, batch, samples=samples, seed=seed, rows=rows, device=device, progress=progress
    )
    exact, samples = isinstance(process, Autoregressive), nats_RS.shape[1]
    total = float(nats_RS.mean(dim=1).sum())
    return Likelihood(
        nats_per_token=total / tokens,
        bits_per_byte=total / math.log(2) / total_bytes,
        stderr=ratio_stderr(nats_RS, tokens_R.double()),
        kind="exact" if exact else "bound",
        samples=samples,
        tokens=tokens,
        bytes=total_bytes,
        seed=seed,
        estimator=_estimator(process, layout),
    )


@torch.inference_mode()
def estimates(
    denoiser: Denoiser,
    process: Process,
    layout: Layout,
    batch: Batch,
    *,
    noise_R: Tensor | None = None,
    samples: int = 8,
    seed: int = 0,
    rows: int = 16,
    independent: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """nats_RS, float64: for each row of text so many estimates of its negative log-likelihood, or of the bound on it.

    Args:
        denoiser: as in `likelihood`, like all that is not named here.
        process: what it was trained with.
        layout: what its positions see.
        batch: the text, on the CPU; a row without editable tokens has 0 nats.
        noise_R: int64, what decides a row's noise beside the seed and the sample: rows with the same number lose the
            same places, as far as they are equally long. None = its place in the batch.
        samples: random noisings of each row; where the value is exact, one is enough and no more are made.
        seed: of the noise.
        rows: sequences in one forward pass.
        independent: a masked model loses each token by chance, instead of a fixed count: the same mean, more variance.
        device: where the denoiser is.
        progress: told the sequences done and their number after each forward pass.

    Raises:
        ValueError: a number out of range.
    """
    for name, value in (("samples", samples), ("rows", rows)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    samples = 1 if isinstance(process, Autoregressive) else samples
    noise_R = torch.arange(len(batch.tokens_BL)) if noise_R is None else noise_R
    embed = denoiser.embed if isinstance(process, Gaussian) else None
    count = len(noise_R) * samples
    nats_C = torch.zeros(count, dtype=torch.float64)
    for begin in range(0, count, rows):
        place_B = torch.arange(begin, min(begin + rows, count))
        row_B, sample_B = place_B // samples, place_B % samples
        part = batch.select(row_B)
        noised, where = noised_rows(
            process, layout, part, noise_R[row_B], sample_B, samples, seed, embed, independent=independent
        )
        nats_C[place_B] = nats_of(denoiser, process, layout, noised, where, torch.device(device))
        if progress:
            progress(min(begin + rows, count), count)
    return nats_C.view(-1, samples)


def nats_of(
    denoiser: Denoiser, process: Process, layout: Layout, noised: Noised, where: Where, device: torch.device
) -> Tensor:
    """float64 (B,): the sum of what each sequence's scored positions cost."""
    nats_N, gaps_B = token_nats(denoiser, process, layout, noised, where, device)
    scored_B = torch.bincount(noised.index_N // where.position_BQ.shape[1], minlength=len(gaps_B)).tolist()
    return torch.stack([part.sum() for part in nats_N.split(scored_B)]) + gaps_B


def token_nats(
    denoiser: Denoiser, process: Process, layout: Layout, noised: Noised, where: Where, device: torch.device
) -> tuple[Tensor, Tensor]:
    """float64 (N,), what each scored position costs; and (B,), what the gaps of a sequence cost where rows grow."""
    # Row by row to the vocabulary: bounded memory, and sums that do not know their neighbours.
    rows, length = where.position_BQ.shape
    scored_B = torch.bincount(noised.index_N // length, minlength=rows).tolist()
    noised, where = noised.to(device), where.to(device)
    inputs_BL, t_BL, read_N = noised.inputs_BL, noised.t_BL, noised.read_N(where, process.shift)
    if layout.two_streams:
        inputs_BL, where, t_BL, read_N = two_streams(
            inputs_BL, noised.clean_inputs_BL, where, t_BL, read_N, noised.index_N
        )
    gaps_B = torch.zeros(rows, dtype=torch.float64)
    if isinstance(process, Growing):
        hidden_BLD = denoiser.encode(inputs_BL, where=where, layout=layout, t_BQ=t_BL)
        hidden_ND = hidden_BLD.flatten(0, 1)[read_N]
        gaps_B = process.gap_bound(denoiser.readout(hidden_BLD, head="gap"), noised).cpu().double().sum(dim=1)
    else:
        hidden_ND = denoiser.encode(inputs_BL, where=where, layout=layout, t_BQ=t_BL, read_N=read_N)
    nats = []
    for index_N, part_ND in zip(noised.index_N.split(scored_B), hidden_ND.split(scored_B), strict=True):
        nats.append(process.bound(denoiser.readout(part_ND), replace(noised, index_N=index_N)))
    return torch.cat(nats).cpu().double(), gaps_B


def noised_rows(
    process: Process,
    layout: Layout,
    batch: Batch,
    number_B: Tensor,
    sample_B: Tensor,
    samples: int,
    seed: int,
    embed: Embed | None = None,
    *,
    independent: bool = False,
) -> tuple[Noised, Where]:
    """Rows noised for the bound at stratified levels, and who their places are; on the CPU, the same for every device.

    Args:
        process: what noise is.
        layout: its blocks are noised each for itself.
        batch: the rows, one for each sample.
        number_B: int64, the number of each row; its noise is a function of (seed, number, sample).
        sample_B: int64, which of its samples each row is.
        samples: of a row.
        seed: of the noise.
        embed: the network's embedding, for a process that noises embeddings.
        independent: as in `estimates`.
    """
    clean_BL, position_BL = batch.tokens_BL, batch.position_BL
    editable_BL = scorable(process, batch.editable_BL, position_BL)
    seeds_B = rng.mix(number_B, seed, sample_B, _MASKS)
    block_BL, group_BL = numbered(position_BL, layout.size) if isinstance(layout, Block) else (None, None)
    where = Where(position_BL, batch.document_BL, block_BL)
    if isinstance(process, Autoregressive):
        t_B1 = torch.zeros(len(number_B), 1, dtype=torch.float64)
        return process.corrupt(clean_BL, t_B1, editable_BL=editable_BL, seeds_B=seeds_B), where
    # Each block of a row takes its levels from equal strata, one a sample, at a place in the stratum that moves on
    # evenly from row to row and from block to block.
    order_BL = torch.zeros_like(clean_BL) if group_BL is None else group_BL
    place_BL = (rng.uniform(sample_B, seed, _LEVEL) + number_B.double() * _GOLDEN)[:, None] + order_BL * math.sqrt(2)
    level_BL = ((sample_B[:, None] + order_BL) % samples + place_BL % 1.0) / samples
    if isinstance(process, (Uniform, Hybrid)):
        # Their integrand has poles at both ends of t: t = u^2 (3 - 2 u) takes them away, and dt/du joins the weight.
        t_BL, slope_BL = level_BL**2 * (3 - 2 * level_BL), 6 * level_BL * (1 - level_BL)
        noised = process.corrupt(clean_BL, t_BL, editable_BL=editable_BL, seeds_B=seeds_B, block_BL=group_BL)
        return replace(noised, weight_BL=(noised.weight_BL * slope_BL).float()), where
    if isinstance(process, Growing):  # a pole at 0 alone: t = u^2
        noised = process.corrupt(clean_BL, level_BL[:, :1] ** 2, editable_BL=editable_BL, seeds_B=seeds_B)
        return replace(noised, weight_BL=(noised.weight_BL * 2 * level_BL).float()), noised.where(where)
    if isinstance(process, Masked):  # the level is the chance of a mask, whatever the schedule
        drawn: Process = replace(process, schedule=Linear(), objective="elbo" if independent else "count")
    else:
        drawn = process
    noised = drawn.corrupt(clean_BL, level_BL, editable_BL=editable_BL, seeds_B=seeds_B, block_BL=group_BL, embed=embed)
    if not isinstance(process, Masked) or process.objective == "count":
        return noised, where
    # Trained with masks drawn one by one: a network that is told the time expects the one with this share of masks.
    return replace(noised, t_BL=time_of(process.schedule, level_BL)), where


def time_of(schedule: Schedule, noise: Tensor) -> Tensor:
    """The t at which a token is noised with this probability, by bisection (alpha falls in t)."""
    low, high = torch.zeros_like(noise), torch.ones_like(noise)
    for _ in range(50):
        middle = (low + high) / 2
        early = 1 - schedule.alpha(middle) < noise
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return high


def _estimator(process: Process, layout: Layout) -> str:
    if isinstance(process, Autoregressive):
        return "log-likelihood"
    kind = "ELBO with a fixed mask count" if isinstance(process, Masked) else f"ELBO of {process.name} noise"
    return f"{kind}{f' in each block of {layout.size}' if isinstance(layout, Block) else ''}, stratified"


def ratio_stderr(nats_RS: Tensor, tokens_R: Tensor) -> float:
    """Standard error of sum(nats) / sum(tokens), rows being independent; even levels make it an upper estimate.

    Source: Cochran 1977, "Sampling techniques", section 6.4 (the ratio estimator).
    """
    count, samples = nats_RS.shape
    if count > 1:
        nats_R = nats_RS.mean(dim=1)
        residual_R = nats_R - nats_R.sum() / tokens_R.sum() * tokens_R
        return math.sqrt(count / (count - 1) * float(residual_R.square().sum())) / float(tokens_R.sum())
    return float(nats_RS.std() / tokens_R.sum()) / math.sqrt(samples) if samples > 1 else 0.0
