"""Lanes: independent readers of the sources, whose rows in turn are the rows of a streamed training run.

Row n of the run is row n // S of lane n % S, with S lanes. What is in a lane depends on the sources, the seed and S
alone, so it does not matter which process reads it, and a process reads nothing but the lanes of its own rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sfumato.config import Source
from sfumato.data.batches import Batch, _batch, _cut, _packed, _shuffled, _Text
from sfumato.data.cache import Encoder, token_type
from sfumato.data.document import DataError, Document, Report, document_of, length
from sfumato.data.formats import Item
from sfumato.data.shards import Part, Reading, dealt
from sfumato.text.interface import AnyTokenizer

PAGE = 64  # rows of a lane that are packed together
CHUNK, CHARACTERS = 64, 1 << 18  # documents tokenised at a time, or as many as hold so many characters
PATIENCE = 300  # epochs in which a lane finds nothing to train on before it gives up
_DEAL, _WINDOW, _ROWS = 3, 4, 5  # what a shuffle is for, so that no two share their random numbers


class Cursor(NamedTuple):
    """Where a lane is in a source: in a window of shuffled texts, and where that begins."""

    epoch: int = 0
    part: int = 0
    """How many of the parts that it is dealt in this epoch are done."""
    place: Any = 0
    """In the next one: where a chunk of documents begins."""
    skip: int = 0
    """Texts of that chunk that were in the window before."""
    window: int = 0
    """Windows before this one."""
    taken: int = 0
    """Texts of this window that are used."""


class Mark(NamedTuple):
    """Where a page of a lane begins."""

    row: int
    """Rows of the lane before it."""
    page: int
    tokens: tuple[int, ...]
    """Taken from each source so far."""
    cursors: tuple[Cursor, ...]


@dataclass
class Supply:
    """A source as all lanes of a process share it."""

    source: Source
    number: int
    """Of the source in the recipe."""
    parts: Sequence[Part]
    report: Report
    held_out: int
    """Texts whose hash is less are not for training."""
    hands: dict[int, list[list[int]]] = field(default_factory=dict)
    """The parts of each lane in some epochs."""

    def hand(self, epoch: int, lane: int, lanes: int, seed: int) -> list[int]:
        """The parts that a lane reads in an epoch, in that order."""
        if epoch not in self.hands:
            if len(self.hands) > 3:
                self.hands.pop(min(self.hands))
            order = _shuffled(len(self.parts), _DEAL, seed, self.number, epoch)
            self.hands[epoch] = dealt([part.size for part in self.parts], order.tolist(), lanes)
        return self.hands[epoch][lane]


@dataclass(frozen=True)
class Plan:
    """What all lanes have in common."""

    supplies: Sequence[Supply]
    weights: Sequence[float]
    lanes: int
    window: int
    """Texts of a source that a lane shuffles among each other."""
    context: int
    tokenizer: AnyTokenizer
    encoder: Encoder
    seed: int

    def start(self) -> Mark:
        """Where every lane begins."""
        count = len(self.supplies)
        return Mark(0, 0, (0,) * count, (Cursor(),) * count)


class _Reader:
    """The texts of one source that one lane takes, in its order, without end."""

    def __init__(self, plan: Plan, supply: Supply, lane: int, cursor: Cursor):
        self._plan, self._supply, self._lane = plan, supply, lane
        self.cursor = cursor
        self._next = cursor._replace(taken=0)
        self._texts: list[_Text] = []
        self._reading: Reading | None = None
        self._chunk: tuple[tuple[int, int, Any], list[_Text], Any] | None = None
        self._loaded = False

    def take(self) -> _Text:
        """The next text."""
        if not self._loaded or self.cursor.taken == len(self._texts):
            taken = 0 if self._loaded else self.cursor.taken
            self._load(taken)
            if taken == len(self._texts):  # the place was noted behind the last text of a window
                self._load(0)
        found = self._texts[self.cursor.taken]
        self.cursor = self.cursor._replace(taken=self.cursor.taken + 1)
        return found

    def _load(self, taken: int) -> None:
        """Fill the window that begins where the last one ended; the end of an epoch ends it too."""
        epoch, part, place, skip, window, _ = begin = self._next
        texts: list[_Text] = []
        while len(texts) < self._plan.window:
            hand = self._supply.hand(epoch, self._lane, self._plan.lanes, self._plan.seed)
            if part == len(hand):
                if texts:
                    break
                epoch, part, place, skip = epoch + 1, 0, 0, 0
                if epoch - begin.epoch > PATIENCE:
                    raise DataError(
                        f"{self._supply.source.path}: too little text to train on for {self._plan.lanes} lanes; use "
                        "fewer data.lanes, or data.stream = false"
                    )
                continue
            chunk, after = self._read(epoch, part, place)
            new = chunk[skip : skip + self._plan.window - len(texts)]
            texts += new
            if skip + len(new) < len(chunk):
                skip += len(new)
            elif after is None:
                part, place, skip = part + 1, 0, 0
            else:
                place, skip = after, 0
        purpose = (_WINDOW, self._plan.seed, self._supply.number, self._lane, window)
        self._texts = [texts[i] for i in _shuffled(len(texts), *purpose)]
        self.cursor = begin._replace(taken=taken)
        self._next = Cursor(epoch, part, place, skip, window + 1, 0)
        self._loaded = True

    def _read(self, epoch: int, number: int, place: Any) -> tuple[list[_Text], Any]:
        """The texts to train on of the next documents of a part, and where it goes on; None = nowhere."""
        asked = epoch, number, place
        if self._chunk and self._chunk[0] == asked:
            return self._chunk[1:]
        part = self._supply.parts[self._supply.hand(epoch, self._lane, self._plan.lanes, self._plan.seed)[number]]
        if self._reading is None or not self._chunk or (epoch, number, self._chunk[2]) != asked:
            self._reading = part.read(self._supply.source, place)
        documents, last = self._documents(part, self._reading.items)
        found = self._plan.encoder(documents, self._plan.tokenizer) if documents else ()
        kind = token_type(self._plan.tokenizer.vocab_size)
        texts = [_Text(np.array(e.tokens, kind), e.prompt) for e in found if e.hash >= self._supply.held_out]
        self._chunk = asked, texts, None if last is None else self._reading.place(last)
        return self._chunk[1:]

    def _documents(self, part: Part, items: Iterator[Item]) -> tuple[list[Document], Item | None]:
        """So many documents, and the item that was last; None = there is no more."""
        documents: list[Document] = []
        size = 0
        for item in items:
            document = document_of(item.value, f"{part.name}:{item.line}", self._supply.report)
            if document is not None:
                documents.append(document)
                size += length(document)
            if len(documents) == CHUNK or size >= CHARACTERS:
                return documents, item
        return documents, None


class Lane:
    """The rows of one lane."""

    def __init__(self, plan: Plan, number: int, mark: Mark):
        """Start with the page that begins at `mark`."""
        self._plan, self._number = plan, number
        self._readers = [_Reader(plan, s, number, c) for s, c in zip(plan.supplies, mark.cursors, strict=True)]
        self._after = mark
        self._turn()

    def row(self, index: int) -> list[_Text]:
        """A row of the lane, by its number; none before the page that the lane is at."""
        assert index >= self.mark.row
        while index >= self._after.row:
            self._turn()
        return _cut(self._texts, [self._rows[index - self.mark.row]])[0]

    def _turn(self) -> None:
        """Pack the next page, always from the source that is furthest behind its share of the tokens."""
        self.mark = self._after
        weights, opening = self._plan.weights, len(self._plan.tokenizer.begin)
        tokens = list(self.mark.tokens)
        self._texts: list[_Text] = []
        space = PAGE * self._plan.context
        while space > 0:
            source = min((i for i in range(len(tokens)) if weights[i] > 0), key=lambda i: tokens[i] / weights[i])
            self._texts.append(self._readers[source].take())
            tokens[source] += len(self._texts[-1].tokens)
            space -= len(self._texts[-1].tokens) + opening
        rows = _packed(self._texts, self._plan.context, self._plan.tokenizer, fill=True)
        # the rows of one long document would otherwise follow one another
        self._rows = [rows[i] for i in _shuffled(len(rows), _ROWS, self._plan.seed, self._number, self.mark.page)]
        cursors = tuple(reader.cursor for reader in self._readers)
        self._after = Mark(self.mark.row + len(rows), self.mark.page + 1, tuple(tokens), cursors)


class Lanes:
    """All lanes, of which those are read whose rows are asked for."""

    def __init__(self, plan: Plan, marks: dict[int, Mark]):
        """Start the lanes at pages not behind the rows that will be asked for; at the first where none is known."""
        self._plan, self._marks = plan, marks
        self._lanes: dict[int, Lane] = {}

    def batch(self, first: int, count: int, rank: int, world: int) -> Batch:
        """Of the rows from `first` on, so many, those that the process `rank` of `world` works on."""
        rows = [self._row(first + i) for i in range(rank, count, world)]
        return _batch(rows, self._plan.context, self._plan.tokenizer)

    def marks(self) -> dict[int, Mark]:
        """The page of each lane that its last row was on, as far as this process knows."""
        return self._marks | {number: lane.mark for number, lane in self._lanes.items()}

    def _row(self, n: int) -> list[_Text]:
        index, number = divmod(n, self._plan.lanes)
        if number not in self._lanes:
            self._lanes[number] = Lane(self._plan, number, self._marks.get(number) or self._plan.start())
        return self._lanes[number].row(index)
