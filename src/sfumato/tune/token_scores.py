"""How probable a policy finds each token of its own answers: the ratios of policy optimisation need that.

A masked model has no probability of one token alone. Two estimates of it:
    one_pass: everything that was written is masked, a random part of the prompt too, and one pass scores all tokens
        (diffu-GRPO). Cheap, and biased: it leaves out how the tokens of an answer depend on one another.
    coupled: a random part of the answer is masked, and in a second row its complement; each token is scored once,
        beside some of the others (coupled-GRPO).
Which places are masked is a function of (seed, row, place): the policy before and after a step and its reference all
see the same. Left to right the probabilities are exact.

Sources: Zhao et al. 2025 (d1, 2504.12216, section 3.2); Gong et al. 2025 (DiffuCoder, 2506.20639, section 4).

Shape letters: B answers, C rows in a pass (B, or 2 B where they are coupled), L row length, N scored places.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Where
from sfumato.evaluate.likelihood import time_of
from sfumato.model.transformer import Denoiser
from sfumato.process import Autoregressive, Masked, Noised
from sfumato.process.noised import cross_entropy, pack
from sfumato.tune.estimates import View
from sfumato.tune.rollouts import Answers

_PART, _PROMPT, _LEVEL = 53, 54, 55  # draw purposes
LEVELS = (0.2, 0.8)  # share of an answer that is masked in the first of two coupled rows


@dataclass(frozen=True)
class Masks:
    """Answers with masks, and where they are scored."""

    noised: Noised
    where: Where
    rows: int


def masks(view: View, answers: Answers, seeds_B: Tensor, *, estimator: str, prompt_masking: float = 0.0) -> Masks:
    """Mask answers to score their tokens.

    Args:
        view: a masked process, or left to right.
        answers: on the CPU.
        seeds_B: int64; a row's masks depend on its seed and the place.
        estimator: one_pass or coupled.
        prompt_masking: one_pass: the share of the prompt that is masked.

    Raises:
        ValueError: another process.
    """
    process, (where, _) = view.process, answers.where(view.layout)
    if isinstance(process, Autoregressive):
        t_B1 = torch.zeros(len(seeds_B), 1, dtype=torch.float64)
        exact = process.corrupt(answers.tokens_BL, t_B1, editable_BL=answers.scored_BL, seeds_B=seeds_B)
        return Masks(exact.to(view.device), where.to(view.device), len(seeds_B))
    if not isinstance(process, Masked):
        raise ValueError(
            f"reinforce: got a model with the {process.name} process; its tokens have no probabilities to compare, use "
            "a masked or an autoregressive one"
        )
    noised = _one_pass(process, answers, seeds_B, prompt_masking)
    if estimator == "coupled":
        noised = _coupled(process, answers, seeds_B)
        where = where.at((torch.arange(len(noised.inputs_BL)) % len(seeds_B),))
    return Masks(noised.to(view.device), where.to(view.device), len(seeds_B))


def token_log_probs(view: View, denoiser: Denoiser, masks: Masks) -> Tensor:
    """Log p of each scored token, (B, L), 0 elsewhere; with gradients where they are enabled."""
    noised = masks.noised
    nats_N = cross_entropy(view.logits(denoiser, noised, masks.where), noised)
    length = noised.inputs_BL.shape[1]
    flat = torch.zeros(masks.rows * length, dtype=nats_N.dtype, device=nats_N.device)
    return -flat.index_add(0, noised.index_N % len(flat), nats_N).view(masks.rows, length)


def _one_pass(process: Masked, answers: Answers, seeds_B: Tensor, prompt_masking: float) -> Noised:
    """All that was written masked. Masks of the prompt stand in the clean copy of block diffusion too."""
    prompt_BL = (answers.position_BL > 0) & ~answers.written_BL
    hidden_BL = prompt_BL & (_random(answers, seeds_B, _PROMPT) < prompt_masking)
    clean_BL = torch.where(hidden_BL, process.mask_id, answers.tokens_BL)
    t_BL = torch.ones(clean_BL.shape, dtype=torch.float64)
    return _noised(process, clean_BL, answers.written_BL, answers.scored_BL, t_BL)


def _coupled(process: Masked, answers: Answers, seeds_B: Tensor) -> Noised:
    """A part of each answer masked, and below all of them its complement; what follows an end always is."""
    low, high = LEVELS
    level_B1 = low + (high - low) * rng.uniform(seeds_B, _LEVEL)[:, None]
    part_BL = (_random(answers, seeds_B, _PART) < level_B1) & answers.scored_BL
    rest_BL = answers.scored_BL & ~part_BL
    behind_BL = answers.written_BL & ~answers.scored_BL
    scored_CL = torch.cat((part_BL, rest_BL))
    t_CL = time_of(process.schedule, torch.cat((level_B1, 1 - level_B1))).expand(scored_CL.shape)
    tokens_CL, behind_CL = torch.cat((answers.tokens_BL,) * 2), torch.cat((behind_BL,) * 2)
    return _noised(process, tokens_CL, scored_CL | behind_CL, scored_CL, t_CL)


def _noised(process: Masked, clean_CL: Tensor, masked_CL: Tensor, scored_CL: Tensor, t_CL: Tensor) -> Noised:
    inputs_CL = torch.where(masked_CL, process.mask_id, clean_CL)
    return Noised(inputs_CL, clean_CL, t_CL, scored_CL.float(), pack(scored_CL, None))


def _random(answers: Answers, seeds_B: Tensor, purpose: int) -> Tensor:
    return rng.uniform(seeds_B[:, None], torch.arange(answers.tokens_BL.shape[1])[None], purpose)
