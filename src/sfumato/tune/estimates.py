"""Log-likelihoods of responses: exact left to right, else the ELBO estimated from a few noisings, with gradients.

The noise of an estimate is a function of (seed, row number, sample), made apart from any network. So a policy and its
reference are asked about the same noisings, and what noise does to both of them falls out of their difference. Each
sample has a noise level of its own and one mask: for the same number of forward passes this varies least.

Source: Zhu et al. 2025 (VRPO, 2505.19223, section 3.2); the levels are stratified as in `evaluate.likelihood`.

Shape letters: B rows of text, C = B * S rows in a forward pass (S samples of a row), L row length, N scored positions,
D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import noised_rows
from sfumato.model.layout import Layout, two_streams
from sfumato.model.transformer import Denoiser
from sfumato.process import Autoregressive, Gaussian, Growing, Noised, Process


@dataclass(frozen=True)
class View:
    """How networks look at text: all that a policy and its reference have in common."""

    process: Process
    layout: Layout
    device: torch.device = torch.device("cpu")
    """Where the networks are."""
    dtype: torch.dtype = torch.float32
    """Of the matrix products; bfloat16 by autocast."""

    def __post_init__(self) -> None:
        """Refuse noise that cannot be shared: it depends on the network, or changes the rows' length."""
        if isinstance(self.process, (Gaussian, Growing)):
            raise ValueError(
                f"tune: got a model with the {self.process.name} process, whose noise two networks cannot share; use a "
                "masked, uniform, hybrid or autoregressive one"
            )

    def logits(self, denoiser: Denoiser, noised: Noised, where: Where) -> Tensor:
        """logits_NV of the noised rows at their scored positions, with gradients where they are enabled.

        Args:
            denoiser: on `device`.
            noised: on `device`, without padding among its scored positions.
            where: who the places of one copy of the text are, on `device`.
        """
        inputs_CL, t_CL, read_N = noised.inputs_BL, noised.t_BL, noised.read_N(where, self.process.shift)
        if self.layout.two_streams:
            inputs_CL, where, t_CL, read_N = two_streams(
                inputs_CL, noised.clean_inputs_BL, where, t_CL, read_N, noised.index_N
            )
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
            hidden_ND = denoiser.encode(inputs_CL, where=where, layout=self.layout, t_BQ=t_CL, read_N=read_N)
            return denoiser.readout(hidden_ND)


@dataclass(frozen=True)
class Noisings:
    """Rows of text, each noised several times."""

    noised: Noised
    where: Where
    rows: int
    samples: int
    """Of each row; sample s of row b is row b * samples + s of `noised`."""


def noisings(view: View, batch: Batch, number_B: Tensor, *, samples: int, seed: int) -> Noisings:
    """Noise every row `samples` times; left to right there is nothing to noise and one sample is exact.

    Args:
        view: the process and the layout, whose blocks are noised each for itself.
        batch: one text a row, on the CPU; its editable tokens are what is scored.
        number_B: int64, the number of each row. Rows of the same number get the same levels and random numbers.
        samples: noise levels, with one mask each.
        seed: of the noise.
    """
    rows = len(number_B)
    samples = 1 if isinstance(view.process, Autoregressive) else samples
    row_C, sample_C = torch.arange(rows * samples) // samples, torch.arange(rows * samples) % samples
    noised, where = noised_rows(
        view.process, view.layout, batch.select(row_C), number_B[row_C], sample_C, samples, seed
    )
    return Noisings(noised.to(view.device), where.to(view.device), rows, samples)


def log_likelihoods(view: View, denoiser: Denoiser, noisings: Noisings) -> Tensor:
    """Estimates of the ELBO of each row's editable tokens (left to right: of the exact log-likelihood), nats (B,).

    Float32, or float64 for a float64 network; with gradients where they are enabled.
    """
    noised = noisings.noised
    nats_N = view.process.bound(view.logits(denoiser, noised, noisings.where), noised)
    row_N = noised.index_N // (noised.inputs_BL.shape[1] * noisings.samples)
    nats_B = torch.zeros(noisings.rows, dtype=nats_N.dtype, device=nats_N.device).index_add(0, row_N, nats_N)
    return -nats_B / noisings.samples
