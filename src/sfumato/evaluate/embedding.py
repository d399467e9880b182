"""How much embeddings say: a linear classifier on them, and finding the text that belongs to another.

Sources: Alain and Bengio 2016 (1610.01644) for linear probes; Voorhees 1999 (TREC-8) for the mean reciprocal rank.

Shape letters: N texts, D dimensions (one more for the constant), K labels, Q queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.data.cache import digest

TRAIN, TUNE = 0.7, 0.1  # shares of the texts; the rest is tested
STRENGTHS = tuple(10.0**n for n in range(-4, 4))


@dataclass(frozen=True)
class Probe:
    """A linear classifier's result on texts that it did not learn from."""

    accuracy: float
    stderr: float
    """Of the accuracy, from the choice of the texts."""
    majority: float
    """What always saying the most frequent label would score."""
    labels: tuple[str, ...]
    train: int
    test: int
    strength: float
    """Of the regularisation, chosen on further texts."""


@dataclass(frozen=True)
class Retrieval:
    """How well a query's vector finds its own document among all."""

    recall_at_1: float
    recall_at_10: float
    reciprocal_rank: float
    """Mean over the queries; of equals the own document comes last."""
    stderr: float
    """Of the mean reciprocal rank, from the choice of the queries."""
    documents: int


def probe(features_ND: Tensor, labels: Sequence[str], texts: Sequence[str]) -> Probe:
    """Fit ridge regression to the labels, in closed form, and test it.

    Args:
        features_ND: a vector for each text.
        labels: of each.
        texts: decide by their hashes who trains, tunes and is tested: the same for any features, equal texts together.

    Raises:
        ValueError: fewer than two labels, or fewer than twenty texts.
    """
    names = sorted(set(labels))
    if len(names) < 2 or len(texts) < 20:
        raise ValueError(f"probe: expected at least 2 labels and 20 texts, got {len(names)} and {len(texts)}")
    share_N = torch.tensor([digest([text]) / 2**64 for text in texts], dtype=torch.float64)
    train_N, test_N = share_N < TRAIN, share_N >= TRAIN + TUNE
    label_N = torch.tensor([names.index(label) for label in labels])
    features_ND = features_ND.double()
    spread_D, mean_D = torch.std_mean(features_ND[train_N], dim=0)
    features_ND = F.pad((features_ND - mean_D) / spread_D.clamp(min=1e-9), (0, 1), value=1.0)
    target_NK = F.one_hot(label_N, len(names)).double()

    def right(weight_DK: Tensor, chosen_N: Tensor) -> Tensor:
        return (features_ND[chosen_N] @ weight_DK).argmax(dim=1) == label_N[chosen_N]

    tune_N = ~train_N & ~test_N
    fits = {strength: _ridge(features_ND[train_N], target_NK[train_N], strength) for strength in STRENGTHS}
    best = max(STRENGTHS, key=lambda strength: (int(right(fits[strength], tune_N).sum()), strength))
    correct_N = right(fits[best], test_N).double()
    accuracy, count = float(correct_N.mean()), len(correct_N)
    return Probe(
        accuracy=accuracy,
        stderr=math.sqrt(accuracy * (1 - accuracy) / count),
        majority=float(target_NK[test_N].mean(dim=0).max()),
        labels=tuple(names),
        train=int(train_N.sum()),
        test=count,
        strength=best,
    )


def _ridge(features_ND: Tensor, target_NK: Tensor, strength: float) -> Tensor:
    """weight_DK that minimises the mean squared error plus `strength` times the mean square of the weights."""
    gram_DD = features_ND.T @ features_ND / len(features_ND)
    return torch.linalg.solve(
        gram_DD + strength * torch.eye(len(gram_DD), dtype=gram_DD.dtype), features_ND.T @ target_NK / len(features_ND)
    )


def retrieval(query_QD: Tensor, document_QD: Tensor) -> Retrieval:
    """Rank all documents for each query by the inner product; the one in the same place is its own.

    Raises:
        ValueError: fewer than two.
    """
    if len(query_QD) < 2:
        raise ValueError(f"retrieval: expected at least 2 queries with their documents, got {len(query_QD)}")
    score_QQ = query_QD.double() @ document_QD.double().T
    rank_Q = (score_QQ >= score_QQ.diagonal()[:, None]).sum(dim=1).double()
    return Retrieval(
        recall_at_1=float((rank_Q <= 1).double().mean()),
        recall_at_10=float((rank_Q <= 10).double().mean()),
        reciprocal_rank=float((1 / rank_Q).mean()),
        stderr=float((1 / rank_Q).std()) / math.sqrt(len(rank_Q)),
        documents=len(rank_Q),
    )
