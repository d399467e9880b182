"""The bound of a masked model without chance, for texts so short that all their masks can be tried.

The bound is a mean over the masks that may hide a text: n tokens lose k of them, k uniform in 1..n, each set of k
equally probable, and the nats of those k count n / k times. So a set of k has the weight 1 / (k C(n, k)). With blocks,
each has its own set, beside any sets of the others.

Source: Nie et al. 2025 (LLaDA, 2502.09992, eq. 14), its expectation written out.

Shape letters: B sequences in a forward pass, R rows of text, M masks, L row length.
"""

import math
from itertools import product

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import nats_of, time_of
from sfumato.model.layout import Block, Layout, numbered
from sfumato.model.transformer import Denoiser
from sfumato.process import Masked, Noised


@torch.inference_mode()
def enumerated(
    denoiser: Denoiser,
    process: Masked,
    layout: Layout,
    batch: Batch,
    *,
    rows: int = 16,
    device: torch.device | str = "cpu",
) -> Tensor:
    """nats_R, float64: the bound on each row's negative log-likelihood, to the network's own precision.

    Args:
        denoiser: in evaluation mode, on `device`.
        process: what it was trained with.
        layout: what its positions see.
        batch: the text, on the CPU; a row of n editable tokens takes 2^n - 1 sequences.
        rows: sequences in one forward pass.
        device: where the denoiser is.
    """
    block_RL, group_RL = numbered(batch.position_BL, layout.size) if isinstance(layout, Block) else (None, None)
    if group_RL is None:
        group_RL = torch.zeros_like(batch.tokens_BL)
    rows_B, masks, weights = [], [], []
    for row, editable_L in enumerate(batch.editable_BL):
        for mask_L, weight_L in _masks(editable_L, group_RL[row]):
            rows_B.append(row)
            masks.append(mask_L)
            weights.append(weight_L)
    nats_R = torch.zeros(len(batch.tokens_BL), dtype=torch.float64)
    for begin in range(0, len(rows_B), rows):
        part = slice(begin, begin + rows)
        row_B, masked_BL = torch.tensor(rows_B[part]), torch.stack(masks[part])
        clean_BL = batch.tokens_BL[row_B]
        noised = Noised(
            torch.where(masked_BL, process.mask_id, clean_BL),
            clean_BL,
            time_of(process.schedule, _share(masked_BL, batch.editable_BL[row_B], group_RL[row_B])),
            torch.stack(weights[part]).float(),
            masked_BL.flatten().nonzero()[:, 0],
        )
        where = Where(batch.position_BL[row_B], batch.document_BL[row_B], None if block_RL is None else block_RL[row_B])
        nats_R.index_add_(0, row_B, nats_of(denoiser, process, layout, noised, where, torch.device(device)))
    return nats_R


def _masks(editable_L: Tensor, group_L: Tensor) -> list[tuple[Tensor, Tensor]]:
    """All sets of editable places but the empty one, and what each place's nats count in the bound."""
    places = editable_L.nonzero()[:, 0].tolist()
    groups = group_L[places].tolist()
    found = []
    for chosen in product((False, True), repeat=len(places)):
        if not any(chosen):
            continue
        mask_L, weight_L = torch.zeros_like(editable_L), torch.zeros(len(editable_L), dtype=torch.float64)
        for place, group, hidden in zip(places, groups, chosen, strict=True):
            if hidden:
                size = groups.count(group)
                count = sum(one for one, other in zip(chosen, groups, strict=True) if other == group)
                mask_L[place] = True
                weight_L[place] = 1 / (count * math.comb(size, count) * 2 ** (len(places) - size))
        found.append((mask_L, weight_L))
    return found


def _share(masked_BL: Tensor, editable_BL: Tensor, group_BL: Tensor) -> Tensor:
    """float64 (B, L): how much of its group's editable places is masked."""

    def counted(flags_BL: Tensor) -> Tensor:
        sizes_BG = torch.zeros(flags_BL.shape, dtype=torch.float64)
        return sizes_BG.scatter_add_(1, group_BL, flags_BL.double()).gather(1, group_BL)

    return counted(masked_BL) / counted(editable_BL).clamp(min=1)
