"""Lanes: independent readers of the sources, whose rows in turn are the rows of a streamed training run.

Row n of the run is row n // S of lane n % S, with S lanes. What is in a lane depends on the sources, the seed and S
alone, so it does not matter which process reads it, and a process reads nothing but the lanes of its own rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sfumato.config import Source
from sfumato.data.cache import Encoder, token_type
from sfumato.data.document import DataError, Document, Report, Section, document_of, length
from sfumato.data.remote import shown
from sfumato.data.rows import Batch, Text, batch_of, cut, packed, shuffled
from sfumato.data.shards import Part, Reading, dealt
from sfumato.text.interface import AnyTokenizer

PAGE = 64  # rows of a lane that are packed together
CHUNK = 16  # documents of a lane that are tokenised at a time
CHARACTERS = 1 << 13  # of a document in a window on average; a window of longer ones holds fewer
PATIENCE = 300  # epochs in which a lane finds nothing to train on before it gives up
_DEAL, _WINDOW, _ROWS = 3, 4, 5  # what a shuffle is for, so that no two share their random numbers


class Cursor(NamedTuple):
    """Where a lane is in a source: in a window of shuffled documents, and where that begins."""

    epoch: int = 0
    part: int = 0
    """How many of the parts that it is dealt in this epoch are done."""
    place: Any = 0
    """Where the window begins in the next one."""
    window: int = 0
    """Windows before this one."""
    taken: int = 0
    """Documents of this window that are used up."""
    given: int = 0
    """Texts of the next chunk of them that are used."""


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
            order = shuffled(len(self.parts), _DEAL, seed, self.number, epoch)
            self.hands[epoch] = dealt([part.size for part in self.parts], order.tolist(), lanes)
        return self.hands[epoch][lane]


@dataclass(frozen=True)
class Plan:
    """What all lanes have in common."""

    supplies: Sequence[Supply]
    weights: Sequence[float]
    lanes: int
    window: int
    """Documents of a source that a lane shuffles among each other."""
    context: int
    tokenizer: AnyTokenizer
    encoder: Encoder
    seed: int

    def start(self) -> Mark:
        """Where every lane begins."""
        count = len(self.supplies)
        return Mark(0, 0, (0,) * count, (Cursor(),) * count)


class Reader:
    """The texts of one source that one lane takes, in its order, without end."""

    def __init__(self, plan: Plan, supply: Supply, lane: int, cursor: Cursor):
        self._plan, self._supply, self._lane = plan, supply, lane
        self.cursor = cursor
        self._documents: list[Document] | None = None  # the window
        self._texts: list[Text] = []  # of the chunk of it that begins at cursor.taken
        self._next = cursor  # the window after it
        self._reading: tuple[tuple[int, int, Any], Reading] | None = None  # where it is, unless it goes on elsewhere
        self._last = cursor.epoch  # in which there was a text

    def take(self) -> Text:
        """The next text."""
        if self._documents is None:
            self._documents = self._window()
            self._texts = self._chunk()
        while self.cursor.given == len(self._texts):
            self.cursor = self.cursor._replace(taken=self.cursor.taken + CHUNK, given=0)
            if self.cursor.taken >= len(self._documents):
                self.cursor = self._next
                self._documents = self._window()
            self._texts = self._chunk()
        found = self._texts[self.cursor.given]
        self.cursor, self._last = self.cursor._replace(given=self.cursor.given + 1), self.cursor.epoch
        return found

    def _chunk(self) -> list[Text]:
        """The next documents of the window as texts to train on, which may be none."""
        assert self._documents is not None
        chunk = self._documents[self.cursor.taken : self.cursor.taken + CHUNK]
        kind = token_type(self._plan.tokenizer.vocab_size)
        return [
            Text(np.array(found.tokens, kind), found.prompt)
            for found in self._plan.encoder(chunk, self._plan.tokenizer)
            if found.hash >= self._supply.held_out
        ]

    def _window(self) -> list[Document]:
        """The documents of the window at the cursor, shuffled; the end of an epoch ends it."""
        epoch, part, place, number, *_ = self.cursor
        documents: list[Document] = []
        begin = self.cursor
        while True:
            hand = self._supply.hand(epoch, self._lane, self._plan.lanes, self._plan.seed)
            if part < len(hand):
                begin = begin if documents else begin._replace(epoch=epoch, part=part, place=place)
                after = self._read(documents, (epoch, part, place), self._supply.parts[hand[part]])
                if after is not None:
                    place = after
                    break
                part, place = part + 1, 0
            elif documents:
                break
            else:
                epoch, part = epoch + 1, 0
                self._check(epoch)
        self.cursor, self._next = begin, Cursor(epoch, part, place, number + 1)
        purpose = _WINDOW, self._plan.seed, self._supply.number, self._lane, number
        return [documents[i] for i in shuffled(len(documents), *purpose)]

    def _read(self, documents: list[Document], at: tuple[int, int, Any], part: Part) -> Any:
        """Add documents of a part to a window until that is full: where it ended; None = the part did."""
        if self._reading is None or self._reading[0] != at:
            self._reading = at, part.read(self._supply.source, at[2])
        reading = self._reading[1]
        size = sum(map(length, documents))
        for item in reading.items:
            document = document_of(item.value, f"{part.name}:{item.line}", self._supply.report)
            if document is not None:
                whole = not isinstance(document, str) or isinstance(document, Section)
                documents += [document] if whole else Section.cut(document)
                size += length(document)
                if len(documents) >= self._plan.window or size >= self._plan.window * CHARACTERS:
                    place = reading.place(item)
                    self._reading = (*at[:2], place), reading
                    return place
        self._reading = None
        return None

    def _check(self, epoch: int) -> None:
        """DataError where a lane finds nothing to train on again and again."""
        if epoch - self._last > PATIENCE:
            source = self._supply.source.path
            raise DataError(
                f"{shown(source)}: too little text to train on for {self._plan.lanes} lanes; use fewer "
                "data.lanes, or data.stream = false"
            )


class Lane:
    """The rows of one lane."""

    def __init__(self, plan: Plan, number: int, mark: Mark):
        """Start with the page that begins at `mark`."""
        self._plan, self._number = plan, number
        self._readers = [Reader(plan, s, number, c) for s, c in zip(plan.supplies, mark.cursors, strict=True)]
        self._after = mark
        self._turn()

    def row(self, index: int) -> list[Text]:
        """A row of the lane, by its number; none before the page that the lane is at."""
        assert index >= self.mark.row
        while index >= self._after.row:
            self._turn()
        return cut(self._texts, [self._rows[index - self.mark.row]])[0]

    def _turn(self) -> None:
        """Pack the next page, always from the source that is furthest behind its share of the tokens."""
        self.mark = self._after
        weights, opening = self._plan.weights, len(self._plan.tokenizer.begin)
        tokens = list(self.mark.tokens)
        self._texts: list[Text] = []
        space = PAGE * self._plan.context
        while space > 0:
            source = min((i for i in range(len(tokens)) if weights[i] > 0), key=lambda i: tokens[i] / weights[i])
            self._texts.append(self._readers[source].take())
            tokens[source] += len(self._texts[-1].tokens)
            space -= len(self._texts[-1].tokens) + opening
        rows = packed(self._texts, self._plan.context, self._plan.tokenizer, fill=True)
        # the rows of one long document would otherwise follow one another
        self._rows = [rows[i] for i in shuffled(len(rows), _ROWS, self._plan.seed, self._number, self.mark.page)]
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
        return batch_of(rows, self._plan.context, self._plan.tokenizer)

    def marks(self) -> dict[int, Mark]:
        """The page of each lane that its last row was on, as far as this process knows."""
        return self._marks | {number: lane.mark for number, lane in self._lanes.items()}

    def _row(self, n: int) -> list[Text]:
        index, number = divmod(n, self._plan.lanes)
        if number not in self._lanes:
            self._lanes[number] = Lane(self._plan, number, self._marks.get(number) or self._plan.start())
        return self._lanes[number].row(index)
