"""Rows of packed pieces: how texts become the tensors that a network reads.

Shapes: B rows, L places in a row.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfumato.data.packing import Piece, pack
from sfumato.text.interface import AnyTokenizer


@dataclass(frozen=True)
class Batch:
    """Rows of packed pieces; each piece is what opens a text and the tokens of one document.

    Attributes:
        tokens_BL: int64.
        position_BL: int64, counted from 0 in each piece; -1 is padding.
        document_BL: int64, counted from 0 in each row; nothing may attend from one to another; -1 is padding.
        editable_BL: bool, what noise may replace and a loss may score: all but start tokens, prompts and padding.
    """

    tokens_BL: Tensor
    position_BL: Tensor
    document_BL: Tensor
    editable_BL: Tensor

    def select(self, rows_R: Tensor) -> "Batch":
        """The given rows (int64 indices), in that order."""
        return Batch(*(part[rows_R] for part in vars(self).values()))


class Text(NamedTuple):
    """A document, or a piece of one."""

    tokens: np.ndarray
    prompt: int  # tokens at its head that are context only


def packed(documents: list[Text], context: int, tokenizer: AnyTokenizer, *, fill: bool) -> list[list[Piece]]:
    """The documents as rows; see `packing.pack`."""
    lengths, prompts = [len(document.tokens) for document in documents], [document.prompt for document in documents]
    return pack(lengths, context, prompts=prompts, fill=fill, opening=len(tokenizer.begin))


def cut(documents: list[Text], rows: list[list[Piece]]) -> list[list[Text]]:
    """The text of each piece, and how much of the prompt lies in it."""
    return [
        [
            Text(documents[i].tokens[begin:end], min(max(documents[i].prompt - begin, 0), end - begin))
            for i, begin, end in row
        ]
        for row in rows
    ]


def batch_of(rows: list[list[Text]], context: int, tokenizer: AnyTokenizer) -> Batch:
    """Rows of pieces as tensors, each piece behind what opens a text."""
    tokens_BL = np.full((len(rows), context), tokenizer.pad_id, np.int64)
    position_BL = np.full((len(rows), context), -1, np.int64)
    document_BL = np.full((len(rows), context), -1, np.int64)
    editable_BL = np.zeros((len(rows), context), bool)
    count = np.arange(context)
    for row, pieces in enumerate(rows):
        begin = 0
        for number, piece in enumerate(pieces):
            text = begin + len(tokenizer.begin)
            end = text + len(piece.tokens)
            tokens_BL[row, begin:text] = tokenizer.begin
            tokens_BL[row, text:end] = piece.tokens
            position_BL[row, begin:end] = count[: end - begin]
            document_BL[row, begin:end] = number
            editable_BL[row, text + piece.prompt : end] = True
            begin = end
    return Batch(*map(torch.from_numpy, (tokens_BL, position_BL, document_BL, editable_BL)))


def shuffled(count: int, *purpose: int) -> np.ndarray:
    """A permutation; from raw bits, since NumPy keeps those the same in every version and its permutations not."""
    bits = np.random.PCG64(np.random.SeedSequence(purpose)).random_raw(count)
    return np.argsort(bits, kind="stable")
