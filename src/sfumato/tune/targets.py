"""What a teacher says of noised text, for a student to say at once.

`decoded` follows the teacher for some of its steps and keeps what it said of each position when it wrote it. Averaged
over the ways that those steps may go, that is the law of the token there: what a single step should draw it from.
`foreseen` asks the teacher about the same text with less of the same noise.

Sources: Deschenaux and Gulcehre 2024 (SDTT, 2410.21035, algorithm 1) for `decoded`; Sahoo et al. 2025 (Duo, 2506.10892,
section 4.2: discrete consistency distillation) for `foreseen`.

Shape letters: B rows, L row length, N scored positions, M some of them, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas, Where
from sfumato.model.transformer import Denoiser
from sfumato.process import Masked, Noised
from sfumato.sample.categorical import categorical
from sfumato.tune.estimates import View

_UNMASK, _WORD = 21, 22  # draw purposes
_NEVER = -1e4  # log-probability of what is never said, finite so that it may be multiplied by 0


def said(view: View, denoiser: Denoiser, noised: Noised, where: Where, temperature: float = 1.0) -> Tensor:
    """Log p(clean | everything seen) at the scored positions, (N, V), finite; float32 or better."""
    logits_NV = view.logits(denoiser, noised, where)
    wide_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    # A row of its own for each position, since each may have a level of its own.
    z_N1 = noised.scored(noised.inputs_BL)[:, None]
    open_N1 = torch.ones_like(z_N1, dtype=torch.bool)
    canvas = Canvas(z_N1, torch.zeros_like(z_N1), open_N1, open_N1, noised.t_N)
    row_N = torch.arange(len(z_N1), device=z_N1.device)
    return view.process.denoised(wide_NV / temperature, row_N, canvas).log_softmax(dim=-1).clamp(min=_NEVER)


def divergence(logp_NV: Tensor, logq_NV: Tensor) -> Tensor:
    """KL(p || q) in nats, (N,)."""
    return (logp_NV.exp() * (logp_NV - logq_NV)).sum(dim=-1)


@torch.no_grad()
def decoded(
    view: View,
    teacher: Denoiser,
    noised: Noised,
    where: Where,
    levels: Sequence[Tensor],
    seeds_B: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """What the teacher says of each mask in the step of ancestral sampling that writes it, log p (N, V).

    What is still a mask after the last step gets what that step said of it.

    Args:
        view: of masked noise.
        teacher: in evaluation mode.
        noised: the text at the first of the levels; all its masks are scored.
        where: who the places are.
        levels: t_BL at the ends of the steps, falling; one more than there are steps.
        seeds_B: int64, for the order and the tokens.
        temperature: of the teacher.
    """
    process = view.process
    assert isinstance(process, Masked)
    index_N, length = noised.index_N, noised.inputs_BL.shape[1]
    row_N, place_N = index_N // length, index_N % length
    logp_NV = torch.zeros(0)
    for step, (t_BL, s_BL) in enumerate(pairwise(levels)):
        alpha_t_N, alpha_s_N = process.alpha(noised.scored(t_BL)), process.alpha(noised.scored(s_BL))
        share_N = (alpha_s_N - alpha_t_N) / (1 - alpha_t_N).clamp(min=1e-12)
        open_N = noised.inputs_BL.flatten()[index_N] == process.mask_id
        due_N = open_N & (rng.uniform(seeds_B[row_N], place_N, step, _UNMASK) < share_N)
        last = step + 2 == len(levels)
        asked_M = (open_N if last else due_N).nonzero().flatten()
        asked = replace(noised, index_N=index_N[asked_M], t_BL=t_BL)
        logp_MV = said(view, teacher, asked, where, temperature)
        if not step:
            logp_NV = logp_MV.new_zeros(len(index_N), logp_MV.shape[1])
        logp_NV[asked_M] = logp_MV
        if not last:
            u_M = rng.uniform(seeds_B[row_N[asked_M]], place_N[asked_M], step, _WORD)
            tokens_M = categorical(logp_MV, u_M)
            written_X = noised.inputs_BL.flatten().index_put((asked.index_N,), tokens_M)
            noised = replace(noised, inputs_BL=written_X.view_as(noised.inputs_BL))
    return logp_NV


@torch.no_grad()
def foreseen(
    view: View,
    teacher: Denoiser,
    noised: Noised,
    less: Noised,
    where: Where,
    temperature: float = 1.0,
) -> Tensor:
    """What the teacher says, with less noise, of the positions that are scored with more of it, log p (N, V).

    Args:
        view: of noise that can be shared; a mask that is gone leaves no doubt.
        teacher: in evaluation mode.
        noised: the text as the student sees it.
        less: the same text with the same noise, at a lower level.
        where: who the places are.
        temperature: of the teacher.
    """
    less = replace(less, index_N=noised.index_N)
    if view.process.revises:
        return said(view, teacher, less, where, temperature)
    seen_N = less.scored(less.inputs_BL)
    open_M = (seen_N == less.scored(noised.inputs_BL)).nonzero().flatten()
    asked = replace(less, index_N=less.index_N[open_M])
    logp_MV = said(view, teacher, asked, where, temperature)
    logp_NV = logp_MV.new_full((len(seen_N), logp_MV.shape[1]), _NEVER).scatter_(1, seen_N[:, None], 0.0)
    return logp_NV.index_put((open_M,), logp_MV)
