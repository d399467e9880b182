"""How probable continuations are, each given what stands before it.

| estimator | of which models | what it is |
|---|---|---|
| exact | autoregressive | the log-likelihood |
| count | masked | the bound from random masks of a fixed count (LLaDA's) |
| elbo | all but autoregressive | the bound from noise of each token by itself; of masked models noisier than count |
| chain | masked | the log-likelihood of writing from left to right |
| auto | all | exact, count or elbo; of masked models over all masks, where these are no more than the samples |

Sources: Nie et al. 2025 (LLaDA, 2502.09992, eq. 14 and appendix B); `evaluate.likelihood` for the bounds.

Shape letters: B rows, L places in a row, R rows of text, S samples of each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.config import ConfigError
from sfumato.data.batches import Batch
from sfumato.evaluate.chain import chained
from sfumato.evaluate.enumeration import enumerated
from sfumato.evaluate.likelihood import estimates
from sfumato.process import Autoregressive, Masked
from sfumato.sample.language_model import LanguageModel

ESTIMATORS = ("auto", "exact", "count", "elbo", "chain")
NOISES = 1 << 20  # different noises


@dataclass(frozen=True)
class Continuation:
    """Tokens to score behind others, with which a row begins."""

    before: Sequence[int]
    tokens: Sequence[int]
    noise: int = 0
    """Rows with the same number lose the same places, so that noise cancels in their difference."""
    longest: int = 0
    """Tokens of the longest one that this one is compared with: they are all measured in the same way."""


def check_estimator(model: LanguageModel, name: str) -> str:
    """The estimator that a name means for a model: auto becomes exact, count or elbo.

    Raises:
        ConfigError: no such one, or not for this model.
    """
    if name not in ESTIMATORS:
        raise ConfigError(f"estimator: expected one of {', '.join(ESTIMATORS)}, got {name!r}")
    process = model.process
    if isinstance(process, Autoregressive):
        good: tuple[str, ...] = ("exact",)
    else:
        good = ("count", "elbo", "chain") if isinstance(process, Masked) else ("elbo",)
    if name != "auto" and name not in good:
        raise ConfigError(f"estimator: {name!r} is not for the {process.name} process; use auto or {' or '.join(good)}")
    return good[0] if name == "auto" else name


def passes(model: LanguageModel, one: Continuation, estimator: str, samples: int) -> int:
    """How often a continuation goes through the network, each time with other noise."""
    kind = check_estimator(model, estimator)
    if kind in ("exact", "chain"):
        return 1 if kind == "exact" else len(one.tokens)
    return 2 ** len(one.tokens) - 1 if _few_masks(model, one, estimator, samples) else samples


def continuation_nats(
    model: LanguageModel,
    continuations: Sequence[Continuation],
    *,
    estimator: str = "auto",
    samples: int = 32,
    seed: int = 0,
    rows: int = 32,
) -> list[Tensor]:
    """Of each continuation nats_S, float64: estimates of its negative log-likelihood, or of the bound on it.

    Args:
        model: diffusion or autoregressive.
        continuations: none longer, with what stands before it, than the context; and none empty.
        estimator: see above.
        samples: random noisings of each; where nothing is random there is a single estimate.
        seed: of the noise, a function of (seed, `Continuation.noise`, sample) alone.
        rows: sequences in a forward pass.

    Raises:
        ConfigError: an estimator that is not for this model.
    """
    kind = check_estimator(model, estimator)
    found: dict[int, Tensor] = {}
    denoiser, process, layout = model.denoiser, model.process, model.layout
    for few in (True, False):
        places = [i for i, one in enumerate(continuations) if _few_masks(model, one, estimator, samples) == few]
        if not places:
            continue
        part = [continuations[i] for i in places]
        batch, how = _batch(part, model.tokenizer.pad_id), dict[str, Any](rows=rows, device=model.device)
        if isinstance(process, Masked) and (few or kind == "chain"):
            nats_RS = (enumerated if few else chained)(denoiser, process, layout, batch, **how)[:, None]
        else:
            noise_R = torch.tensor([one.noise for one in part])
            how |= {"samples": samples, "seed": seed, "independent": kind == "elbo"}
            nats_RS = estimates(denoiser, process, layout, batch, noise_R=noise_R, **how)
        found |= zip(places, nats_RS, strict=True)
    return [found[i] for i in range(len(continuations))]


def sample_stderr(values_S: Tensor) -> float:
    """Standard error of the mean of samples at rising noise levels: from what neighbours differ by.

    The levels are stratified, so the trend along them adds nothing to the error; it stays an upper estimate.

    Source: Wolter 2007, "Introduction to variance estimation", section 8.2 (successive differences).
    """
    samples = len(values_S)
    return math.sqrt(float(values_S.diff().square().mean()) / (2 * samples)) if samples > 1 else 0.0


def _few_masks(model: LanguageModel, one: Continuation, estimator: str, samples: int) -> bool:
    """Whether all masks are tried, since they are no more than the samples."""
    longest = max(one.longest, len(one.tokens))
    return estimator == "auto" and isinstance(model.process, Masked) and 2**longest <= samples + 1


def _batch(continuations: Sequence[Continuation], pad_id: int) -> Batch:
    """One continuation a row, which alone is scored."""
    length = max(len(one.before) + len(one.tokens) for one in continuations)
    tokens_BL = torch.full((len(continuations), length), pad_id)
    position_BL = torch.full((len(continuations), length), -1)
    editable_BL = torch.zeros(len(continuations), length, dtype=torch.bool)
    for i, one in enumerate(continuations):
        end = len(one.before) + len(one.tokens)
        tokens_BL[i, :end] = torch.tensor([*one.before, *one.tokens])
        position_BL[i, :end] = torch.arange(end)
        editable_BL[i, len(one.before) : end] = True
    return Batch(tokens_BL, position_BL, torch.where(position_BL < 0, -1, 0), editable_BL)
