"""What a text means to a model: the mean of its hidden states, as a vector of length 1.

The text is read clean and by the model's own layout, in both directions where that allows it, and the places of its
tokens are averaged. The best layer is not the last, which is busy predicting words, but one in the middle.

Sources: Reimers and Gurevych 2019 (Sentence-BERT, 1908.10084) for the mean over tokens; Liu et al. 2019 (1903.08855)
and Skean et al. 2025 (2502.02013) for layers in the middle.

Shape letters: N texts, P pieces in a forward pass, L places in a piece, D width, E dimensions of an embedding.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.canvas import Where
from sfumato.model.layout import Block
from sfumato.process import Gaussian

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel

POOLINGS = ("mean", "last")
TOGETHER = 1024  # places in a forward pass, between which others may run


class _Piece(NamedTuple):
    """A stretch of a text that fits into the context."""

    text: int
    tokens: Sequence[int]


def embed(
    model: "LanguageModel",
    texts: Sequence[Sequence[int]],
    *,
    layer: int | None = None,
    pooling: str = "mean",
    dimensions: int | None = None,
) -> Tensor:
    """All of `embedding_steps` at once."""
    steps = embedding_steps(model, texts, layer=layer, pooling=pooling, dimensions=dimensions)
    return next(done for done in steps if done is not None)


@torch.inference_mode()
def embedding_steps(
    model: "LanguageModel",
    texts: Sequence[Sequence[int]],
    *,
    layer: int | None = None,
    pooling: str = "mean",
    dimensions: int | None = None,
) -> Iterator[Tensor | None]:
    """Embed texts, shortest first, a bounded number of places at a time.

    Args:
        model: any; an autoregressive one sees only what stands before each token.
        texts: tokens without special ones. What is longer than the context is read in pieces, each of which counts as
            much as it has tokens.
        layer: how many layers to run; 0 = the input embeddings, a bag of words; None = half of them.
        pooling: "mean" over the tokens, or the "last" one, which alone has seen all where reading is left to right.
        dimensions: keep the first so many; None = all.

    Yields:
        None after each forward but the last, then embedding_NE, float32 on the CPU, each of length 1.

    Raises:
        ValueError: an empty text, or a number out of range.
    """
    layers, width = model.bundle.config.model.layers, model.bundle.config.model.width
    layer = (layers + 1) // 2 if layer is None else layer
    dimensions = width if dimensions is None else dimensions
    if empty := [i for i, tokens in enumerate(texts) if not tokens]:
        raise ValueError(f"input[{empty[0]}]: the text is empty; expected at least one token")
    for name, value, least, most in (("layer", layer, 0, layers), ("dimensions", dimensions, 1, width)):
        if not least <= value <= most:
            raise ValueError(f"{name}: expected {least} to {most} for this model, got {value}")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
    sum_ND = torch.zeros(len(texts), width)
    groups = list(_groups(texts, model.front.context - 2))
    for i, pieces in enumerate(groups):
        hidden_PLD, text_PL = _hidden(model, pieces, layer)
        if pooling == "last":
            text_PL = text_PL & (text_PL.flip(1).cumsum(dim=1).flip(1) == 1)
        pooled_PD = (hidden_PLD * text_PL[..., None]).sum(dim=1)
        index_P = torch.tensor([piece.text for piece in pieces])
        sum_ND.index_add_(0, index_P, pooled_PD)
        if i + 1 < len(groups):
            yield None
    yield F.normalize(sum_ND[:, :dimensions], dim=1)


def _groups(texts: Sequence[Sequence[int]], longest: int) -> Iterator[list[_Piece]]:
    """All pieces of the texts, those of about the same length together."""
    pieces = [
        _Piece(i, tokens[begin : begin + longest])
        for i, tokens in enumerate(texts)
        for begin in range(0, len(tokens), longest)
    ]
    group: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: len(piece.tokens)):
        if group and (len(group) + 1) * (len(piece.tokens) + 2) > TOGETHER:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _hidden(model: "LanguageModel", pieces: Sequence[_Piece], layer: int) -> tuple[Tensor, Tensor]:
    """hidden_PLD of pieces, each between a start and an end, float32 on the CPU; and text_PL, bool, their tokens."""
    special, begin = model.bundle.config.tokens, model.tokenizer.begin
    length = max(len(piece.tokens) for piece in pieces) + len(begin) + 1
    tokens_PL = torch.full((len(pieces), length), special.pad)
    position_PL = torch.full((len(pieces), length), -1)
    text_PL = torch.zeros(len(pieces), length, dtype=torch.bool)
    for i, piece in enumerate(pieces):
        end = len(begin) + len(piece.tokens) + 1
        tokens_PL[i, :end] = torch.tensor([*begin, *piece.tokens, special.end])
        position_PL[i, :end] = torch.arange(end)
        text_PL[i, len(begin) : end - 1] = True
    inputs = tokens_PL.to(model.device)
    if isinstance(model.process, Gaussian):
        inputs = model.denoiser.embed(inputs)
    size = model.layout.size if isinstance(model.layout, Block) else length
    where = Where(position_PL, torch.where(position_PL < 0, -1, 0), position_PL // size, position_PL >= 0)
    hidden_PLD = model.denoiser.encode(
        inputs,
        where=where.to(model.device),
        layout=model.layout,
        t_BQ=torch.zeros(tokens_PL.shape, device=model.device),
        layers=layer,
    )
    return hidden_PLD.float().cpu(), text_PL
