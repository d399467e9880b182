"""Batches of packed rows: an endless stream to train on, and fixed sets to evaluate on.

Shapes: B rows, L places in a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfumato.data.cache import Corpus, Encoded, Encoder, Plain
from sfumato.data.packing import Piece, pack
from sfumato.data.sources import DataError, Document
from sfumato.text.interface import AnyTokenizer

PAGE = 512  # rows packed together
STEP = 16  # lengths of rows that hold one example each are multiples of it
_ORDER, _ROWS = 1, 2  # what a shuffle is for, so that no two share their random numbers


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


class _Text(NamedTuple):
    """A document, or a piece of one."""

    tokens: np.ndarray
    prompt: int  # tokens at its head that are context only


class Stream:
    """The training rows, without end, in an order that depends only on the corpora, the weights and the seed.

    Documents come in pages: enough of them to fill 512 rows are taken from the corpora, packed together and their rows
    shuffled. A page leaves nothing over, so a few numbers say where the stream is. The next document is always taken
    from the corpus that is furthest behind its share of the tokens; each corpus is shuffled anew in each epoch.
    """

    def __init__(
        self, corpora: Sequence[Corpus], weights: Sequence[float], *, context: int, tokenizer: AnyTokenizer, seed: int
    ):
        """Start at the first row.

        Args:
            corpora: what to read; only their documents to train on are used.
            weights: share of the tokens that comes from each corpus, in any unit; 0 leaves it out.
            context: places in a row.
            tokenizer: the one that made the corpora, for its start and padding tokens.
            seed: of all shuffling.

        Raises:
            DataError: there is nothing to train on.
        """
        assert len(corpora) == len(weights)
        self._used = [i for i, weight in enumerate(weights) if weight > 0 and len(corpora[i].train)]
        if not self._used:
            raise DataError("no data to train on: every source is empty or has weight 0; add text or a --data.sources")
        self._corpora, self._weights = corpora, weights
        self._context, self._tokenizer, self._seed = context, tokenizer, seed
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # of each corpus: the epoch, and its documents shuffled
        self._begin([0] * len(corpora), [0] * len(corpora), 0)

    def rows(self, count: int, rank: int = 0, world: int = 1) -> Batch:
        """Of the next `count` rows, those of one of the processes that train together: g with g % world == rank."""
        taken: list[list[_Text]] = []
        while len(taken) < count:
            if self._row == len(self._page):
                self._begin(self._documents_after, self._tokens_after, 0)
            new = self._page[self._row : self._row + count - len(taken)]
            taken += _cut(self._documents, new)
            self._row += len(new)
        return _batch(taken[rank::world], self._context, self._tokenizer)

    def state(self) -> dict[str, Any]:
        """Where the stream is, in plain numbers and text that JSON can hold."""
        return {
            "corpora": self._names(),
            "documents": list(self._documents_before),
            "tokens": list(self._tokens_before),
            "row": self._row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            DataError: the data has changed since.
        """
        if state["corpora"] != self._names():
            raise DataError("the training data is not what it was when this run stopped; restore it or start a new run")
        self._begin(state["documents"], state["tokens"], state["row"])

    def _names(self) -> list[str]:
        return [f"{corpus.key}:{len(corpus.train)}" for corpus in self._corpora]

    def _begin(self, documents: Sequence[int], tokens: Sequence[int], row: int) -> None:
        """Pack the page that starts after so many documents and tokens of each corpus."""
        self._documents_before, self._tokens_before, self._row = list(documents), list(tokens), row
        documents, tokens = list(documents), list(tokens)
        page: list[_Text] = []
        space = PAGE * self._context
        while space > 0:
            source = min(self._used, key=lambda i: tokens[i] / self._weights[i])
            corpus = self._corpora[source]
            epoch, place = divmod(documents[source], len(corpus.train))
            chosen = self._order(source, epoch)[place]
            page.append(_text(corpus, chosen))
            documents[source] += 1
            tokens[source] += len(page[-1].tokens)
            space -= len(page[-1].tokens) + len(self._tokenizer.begin)
        rows = _packed(page, self._context, self._tokenizer, fill=True)
        self._documents = page
        # the rows of one long document would otherwise follow one another
        self._page = [rows[i] for i in _shuffled(len(rows), _ROWS, self._seed, sum(self._documents_before))]
        self._documents_after, self._tokens_after = documents, tokens

    def _order(self, source: int, epoch: int) -> np.ndarray:
        if self._orders.get(source, (-1,))[0] != epoch:
            train = self._corpora[source].train
            self._orders[source] = epoch, train[_shuffled(len(train), _ORDER, self._seed, source, epoch)]
        return self._orders[source][1]


def held_out_rows(
    corpora: Sequence[Corpus], context: int, tokenizer: AnyTokenizer, *, at_most: int | None = None
) -> tuple[Batch, int]:
    """Pack the held-out documents, whole where they fit into a row, in an order that depends on their text alone.

    Args:
        corpora: as `open_corpora` gave them.
        context: places in a row.
        tokenizer: the one that made the corpora.
        at_most: stop before this many tokens, but not before the first document; None packs all.

    Returns:
        The rows, and the UTF-8 bytes of their scored text; no rows when nothing is held out.
    """
    chosen = [(int(corpus.hashes[i]), n, int(i)) for n, corpus in enumerate(corpora) for i in corpus.held_out]
    documents, size, total = [], 0, 0
    for _, n, i in sorted(chosen):
        corpus = corpora[n]
        total += corpus.length(i)
        if at_most is not None and documents and total > at_most:
            break
        documents.append(_text(corpus, i))
        size += int(corpus.bytes[i])
    return _whole(documents, context, tokenizer), size


def rows_of(
    texts: Iterable[Document], tokenizer: AnyTokenizer, context: int, encoder: Encoder | None = None
) -> tuple[Batch, int]:
    """Pack texts for evaluation, tokenised as in training, whole where they fit into a row.

    Args:
        texts: one document each, or a chat, or a prompt with its response, which alone counts.
        tokenizer: turns them into tokens; an end token is added to each.
        context: places in a row; a longer document is cut, and each piece begins as a text.
        encoder: makes the token rows, as in `open_corpora`.

    Returns:
        The rows, and the UTF-8 bytes of what counts of the texts.
    """
    documents, size = [], 0
    for found in (encoder or Plain())(texts, tokenizer):
        documents.append(_Text(np.array(found.tokens), found.prompt))
        size += found.bytes
    return _whole(documents, context, tokenizer), size


def separate_rows(examples: Sequence[Encoded], tokenizer: AnyTokenizer, context: int, *, whole: bool = False) -> Batch:
    """Each example in a row of its own.

    Args:
        examples: of which none is longer than the context.
        tokenizer: for its start and padding tokens.
        context: places in a row at most.
        whole: rows are as long as the context; else as the longest example, rounded up so that there are few lengths.
    """
    longest = len(tokenizer.begin) + max(len(example.tokens) for example in examples)
    length = context if whole else min(context, -(-longest // STEP) * STEP)
    return _batch([[_Text(np.array(example.tokens), example.prompt)] for example in examples], length, tokenizer)


def _text(corpus: Corpus, i: int) -> _Text:
    return _Text(corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]], int(corpus.prompts[i]))


def _packed(documents: list[_Text], context: int, tokenizer: AnyTokenizer, *, fill: bool) -> list[list[Piece]]:
    lengths, prompts = [len(document.tokens) for document in documents], [document.prompt for document in documents]
    return pack(lengths, context, prompts=prompts, fill=fill, opening=len(tokenizer.begin))


def _cut(documents: list[_Text], rows: list[list[Piece]]) -> list[list[_Text]]:
    """The text of each piece, and how much of the prompt lies in it."""
    return [
        [
            _Text(documents[i].tokens[begin:end], min(max(documents[i].prompt - begin, 0), end - begin))
            for i, begin, end in row
        ]
        for row in rows
    ]


def _whole(documents: list[_Text], context: int, tokenizer: AnyTokenizer) -> Batch:
    return _batch(_cut(documents, _packed(documents, context, tokenizer, fill=False)), context, tokenizer)


def _batch(rows: list[list[_Text]], context: int, tokenizer: AnyTokenizer) -> Batch:
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


def _shuffled(count: int, *purpose: int) -> np.ndarray:
    """A permutation; from raw bits, since NumPy keeps those the same in every version and its permutations not."""
    bits = np.random.PCG64(np.random.SeedSequence(purpose)).random_raw(count)
    return np.argsort(bits, kind="stable")
