"""Two models on the same text under the same noise: the difference between them, and how sure it is.

The difference varies far less than either value: what is hard about a text, and what a noising hides of it, are hard
and hidden for both.

Shape letters: R rows of text, G groups of them, S samples of a row.
"""

from dataclasses import dataclass

from torch import Tensor

from sfumato.data.batches import Batch
from sfumato.evaluate.likelihood import estimates, ratio_stderr
from sfumato.sample.language_model import LanguageModel


@dataclass(frozen=True)
class Difference:
    """A figure of a new model beside that of an old one."""

    old: float
    new: float
    difference: float
    """New minus old."""
    stderr: float
    """Standard error of the difference as an estimate for all text of this kind."""
    rows: int
    """Of text, or groups of such."""


def nats_of(model: LanguageModel, batch: Batch, *, samples: int = 8, seed: int = 0) -> Tensor:
    """nats_RS: what each row of text costs a model; the noise depends on the row's place, the sample and the seed."""
    return estimates(
        model.denoiser, model.process, model.layout, batch, samples=samples, seed=seed, device=model.device
    )


def difference(old_RS: Tensor, new_RS: Tensor, tokens_R: Tensor, group_R: Tensor | None = None) -> Difference:
    """Compare what rows of text cost two models, in nats per token: exact, or a bound.

    Args:
        old_RS: as `nats_of` gave it, for one model.
        new_RS: for the other one, with the same samples and seed.
        tokens_R: how many tokens of each row count.
        group_R: int64, from 0; rows of a group have something in common, so that they count as one row where it matters
            how sure the difference is. None = each row is a group.
    """
    tokens_R = tokens_R.double()
    old, new = (float(nats_RS.mean(dim=1).sum() / tokens_R.sum()) for nats_RS in (old_RS, new_RS))
    change_GS, tokens_G = new_RS - old_RS, tokens_R
    if group_R is not None:
        change_GS, tokens_G = (
            value.new_zeros(int(group_R.max()) + 1, *value.shape[1:]).index_add(0, group_R, value)
            for value in (change_GS, tokens_G)
        )
    return Difference(old, new, new - old, ratio_stderr(change_GS, tokens_G), len(tokens_G))
