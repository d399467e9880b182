"""The likelihood of a masked model that writes from left to right: a product of what it says of each next token.

Everything from that token on is masked, as far as the text reaches. Where a network's conditionals fit together this
is its probability of the text; else it is that of one order among many, while the bound is a mean over all of them.

Source: Nie et al. 2025 (LLaDA, 2502.09992, section 2.4, on the orders that a masked model has).

Shape letters: B sequences in a forward pass, R rows of text, L row length.
"""

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import nats_of, time_of
from sfumato.model.layout import Block, Layout, numbered
from sfumato.model.transformer import Denoiser
from sfumato.process import Masked, Noised


@torch.inference_mode()
def chained(
    denoiser: Denoiser,
    process: Masked,
    layout: Layout,
    batch: Batch,
    *,
    rows: int = 16,
    device: torch.device | str = "cpu",
) -> Tensor:
    """nats_R, float64: the negative log-likelihood of each row's editable tokens, written from left to right.

    Args:
        denoiser: in evaluation mode, on `device`.
        process: what it was trained with.
        layout: what its positions see.
        batch: the text, on the CPU; a row of n editable tokens takes n sequences.
        rows: sequences in one forward pass.
        device: where the denoiser is.
    """
    block_RL = numbered(batch.position_BL, layout.size)[0] if isinstance(layout, Block) else None
    row_N, place_N = batch.editable_BL.nonzero(as_tuple=True)
    column_L = torch.arange(batch.tokens_BL.shape[1])
    nats_R = torch.zeros(len(batch.tokens_BL), dtype=torch.float64)
    for row_B, place_B in zip(row_N.split(rows), place_N.split(rows), strict=True):
        clean_BL, editable_BL = batch.tokens_BL[row_B], batch.editable_BL[row_B]
        masked_BL = editable_BL & (column_L >= place_B[:, None])
        share_B1 = masked_BL.sum(dim=1, keepdim=True).double() / editable_BL.sum(dim=1, keepdim=True)
        noised = Noised(
            torch.where(masked_BL, process.mask_id, clean_BL),
            clean_BL,
            time_of(process.schedule, share_B1).expand(clean_BL.shape),
            torch.ones(clean_BL.shape),
            place_B + torch.arange(len(row_B)) * len(column_L),
        )
        where = Where(batch.position_BL[row_B], batch.document_BL[row_B], None if block_RL is None else block_RL[row_B])
        nats_R.index_add_(0, row_B, nats_of(denoiser, process, layout, noised, where, torch.device(device)))
    return nats_R
