"""Batches of packed rows: an endless stream to train on, and fixed sets to evaluate on.

Shapes: B rows, L places in a row.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sfumato.data.cache import Corpus, Encoded, Encoder, Plain
from sfumato.data.rows import Batch, Text, batch_of, cut, packed, shuffled
from sfumato.data.sources import DataError, Document
from sfumato.text.interface import AnyTokenizer

__all__ = ["Batch", "Stream", "held_out_rows", "rows_of", "separate_rows"]

PAGE = 512  # rows packed together
STEP = 16  # lengths of rows that hold one example each are multiples of it
_ORDER, _ROWS = 1, 2  # what a shuffle is for, so that no two share their random numbers


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
        taken: list[list[Text]] = []
        while len(taken) < count:
            if self._row == len(self._page):
                self._begin(self._documents_after, self._tokens_after, 0)
            new = self._page[self._row : self._row + count - len(taken)]
            taken += cut(self._documents, new)
            self._row += len(new)
        return batch_of(taken[rank::world], self._context, self._tokenizer)

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
        page: list[Text] = []
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
        rows = packed(page, self._context, self._tokenizer, fill=True)
        self._documents = page
        # the rows of one long document would otherwise follow one another
        self._page = [rows[i] for i in shuffled(len(rows), _ROWS, self._seed, sum(self._documents_before))]
        self._documents_after, self._tokens_after = documents, tokens

    def _order(self, source: int, epoch: int) -> np.ndarray:
        if self._orders.get(source, (-1,))[0] != epoch:
            train = self._corpora[source].train
            self._orders[source] = epoch, train[shuffled(len(train), _ORDER, self._seed, source, epoch)]
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
        documents.append(Text(np.array(found.tokens), found.prompt))
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
    return batch_of([[Text(np.array(example.tokens), example.prompt)] for example in examples], length, tokenizer)


def _text(corpus: Corpus, i: int) -> Text:
    return Text(corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]], int(corpus.prompts[i]))


def _whole(documents: list[Text], context: int, tokenizer: AnyTokenizer) -> Batch:
    return batch_of(cut(documents, packed(documents, context, tokenizer, fill=False)), context, tokenizer)
