"""From a matrix to codes and scales: to the nearest, or each column making up for the rounding of those before it.

Shape letters: O outputs, I inputs, G groups of a row.
"""

import torch
from torch import Tensor

from sfumato.model.quantised import GREATEST, QuantisedMatrix, packed

_DAMPING = 0.01  # of the mean of the diagonal, so that inputs that were never seen do no harm
_COLUMNS = 128  # corrected at once


@torch.no_grad()
def put_nearest(matrix: QuantisedMatrix, weight_OI: Tensor) -> None:
    """Store each number as the nearest one that its scale can say; the scale is that of the greatest of its group."""
    weight_OI = weight_OI.float()
    scale_OG = _scales(weight_OI, matrix)
    matrix.scale.copy_(scale_OG)
    grouped_OGX = weight_OI.view(*scale_OG.shape, matrix.group) / scale_OG[..., None]
    _store(matrix, grouped_OGX.flatten(1))


@torch.no_grad()
def put_corrected(matrix: QuantisedMatrix, weight_OI: Tensor, gram_II: Tensor) -> None:
    """As `put_nearest`, but what rounding a column changes in the outputs is made up for by the columns after it.

    Args:
        matrix: where to.
        weight_OI: what to store.
        gram_II: float64, the sum of x x^T over the inputs that the matrix shall be right for.

    Source: Frantar et al. 2022 (GPTQ, 2210.17323, algorithm 1).
    """
    rest_OI = weight_OI.double().clone()
    gram_II = gram_II.clone()
    gram_II.diagonal().add_(_DAMPING * gram_II.diagonal().mean() + 1e-12)
    factor_II = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram_II)), upper=True)
    limit, codes_OI = GREATEST[matrix.kind], torch.zeros_like(rest_OI)
    for begin in range(0, matrix.inputs, _COLUMNS):
        end = min(begin + _COLUMNS, matrix.inputs)
        error_OX = torch.zeros(len(rest_OI), end - begin, dtype=torch.float64)
        for i in range(begin, end):
            if i % matrix.group == 0:  # what earlier columns have added counts for the scale too
                scale_O1 = _scales(rest_OI[:, i : i + matrix.group].float(), matrix)
                matrix.scale[:, i // matrix.group : i // matrix.group + 1] = scale_O1
            step_O = matrix.scale[:, i // matrix.group].double()
            codes_OI[:, i] = (rest_OI[:, i] / step_O).round().clamp(-limit - 1, limit)
            error_OX[:, i - begin] = (rest_OI[:, i] - codes_OI[:, i] * step_O) / factor_II[i, i]
            rest_OI[:, i:end] -= error_OX[:, i - begin, None] * factor_II[i, i:end]
        rest_OI[:, end:] -= error_OX @ factor_II[begin:end, end:]
    _store(matrix, codes_OI)


def _scales(weight_OI: Tensor, matrix: QuantisedMatrix) -> Tensor:
    """bfloat16 steps (O, G), as float32: so large that the greatest number of a group is reached."""
    peak_OG = weight_OI.unflatten(1, (-1, min(matrix.group, weight_OI.shape[1]))).abs().amax(dim=-1)
    return (peak_OG / GREATEST[matrix.kind]).clamp(min=1e-30).bfloat16().float()


def _store(matrix: QuantisedMatrix, codes_OI: Tensor) -> None:
    """Round, and keep what fits."""
    limit = GREATEST[matrix.kind]
    if matrix.kind == "float8":
        bits = codes_OI.clamp(-limit, limit).to(torch.float8_e4m3fn).view(torch.int8)
        matrix.weight.copy_(bits)
        return
    codes_OI = codes_OI.round().clamp(-limit - 1, limit).to(torch.int8)
    matrix.weight.copy_(packed(codes_OI) if matrix.kind == "int4" else codes_OI)
