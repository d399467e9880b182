"""What the tests of public models share: logits of a folder's model, and of a class of the transformers library.

Shape letters: B rows, L length, V vocabulary.
"""

from pathlib import Path

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.model.bundle import Bundle
from sfumato.model.layout import layout_named


def whole(tokens_BL: Tensor, block: int = 0) -> Where:
    """Rows without padding; in blocks that are final."""
    position_BL = torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL)
    if not block:
        return Where(position_BL, None)
    return Where(position_BL, None, position_BL // block, torch.ones_like(tokens_BL, dtype=torch.bool))


def logits(folder: Path, tokens_BL: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """logits_BLV as our network reads them out, row by row."""
    bundle = Bundle.load(folder, dtype=dtype)
    block = bundle.config.model.block
    with torch.inference_mode():
        where = whole(tokens_BL, block)
        layout = layout_named(bundle.config.layout, block)
        return bundle.denoiser.readout(bundle.denoiser.encode(tokens_BL, where=where, layout=layout))
