"""A source in parts: what a stream's lanes share among each other, each part readable from any place in it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Any, NamedTuple, Protocol

from sfumato.config import Source
from sfumato.data import formats
from sfumato.data.document import DataError, Document, Report, Section, document_of, length
from sfumato.data.files import File, files
from sfumato.data.formats import Item
from sfumato.data.hugging import is_dataset, streaming_dataset
from sfumato.data.records import from_record

FINE = 8  # parts for each lane, where parts cost nothing, so that all lanes get about equally much
HEADS = 16  # parts that the beginning of a large source is taken from


class Reading(NamedTuple):
    """A part that is being read."""

    items: Iterator[Item]
    place: Callable[[Item], Any]
    """Where to go on later behind the item that came last, in values that JSON can hold."""


class Part(Protocol):
    """A part of a source."""

    @property
    def name(self) -> str:
        """Its file or dataset, for messages."""
        ...

    @property
    def size(self) -> float:
        """How much of the source it is, in any unit."""
        ...

    def read(self, source: Source, place: Any = 0) -> Reading:
        """What is in it, in order, from a place that an earlier reading gave; 0 = its beginning."""
        ...


@dataclass(frozen=True)
class FilePart:
    """One of several equal portions of a file."""

    file: File
    portion: int
    portions: int

    @property
    def name(self) -> str:
        """The file, for people to read."""
        return self.file.shown

    @property
    def size(self) -> float:
        """Bytes, as far as the server says."""
        return max(self.file.size, 1) / self.portions

    def read(self, source: Source, place: Any = 0) -> Reading:
        """Its values; of a text its sections."""
        items = formats.read(self.file, source, self.portion, self.portions, place)
        if self.file.format not in formats.RECORDS:
            items = self._sections(items, place)
        return Reading(items, lambda item: item.after)

    def _sections(self, items: Iterator[Item], after: int) -> Iterator[Item]:
        for line, text, _ in items:
            values = Section.cut(text) if isinstance(text, str) else [text]
            for i in range(self.portion, len(values), self.portions):
                if i >= after:
                    yield Item(line, values[i], i + 1)


@dataclass(frozen=True)
class DatasetPart:
    """Every so many-th record of a Hugging Face dataset's shard."""

    name: str
    dataset: Any
    shard: int
    portion: int
    portions: int

    @property
    def size(self) -> float:
        """Of a shard; what shards hold is not known."""
        return 1 / self.portions

    def read(self, source: Source, place: Any = 0) -> Reading:
        """Its records; a place is their number and the library's own state."""
        before, state = place or (0, None)
        data = self.dataset.shard(num_shards=self.dataset.num_shards, index=self.shard)
        if state is not None:
            data.load_state_dict(state)
        return Reading(self._items(source, data, before), lambda item: [item.after, data.state_dict()])

    def _items(self, source: Source, data: Any, before: int) -> Iterator[Item]:
        try:
            for row, record in enumerate(data, before + 1):
                if (row - 1) % self.portions == self.portion:
                    yield Item(row, from_record(source, record), row)
        except Exception as error:  # of the network, the hub or a file: the library raises dozens of kinds
            raise DataError(f"{self.name}: cannot be streamed ({formats.one_line(error)})") from None


def parts(source: Source, lanes: int) -> list[Part]:
    """The parts of a source, at least one for each lane unless it is a few texts.

    What can be read from any place is cut finely. A compressed file cannot: it is shared only where there are too few
    of them, since everybody who takes a portion reads the file from its beginning.

    Raises:
        DataError: nothing to read there; one line.
    """
    if is_dataset(source):
        data = streaming_dataset(source, lanes)
        portions = -(-lanes // data.num_shards)
        return [DatasetPart(source.path, data, i, j, portions) for i in range(data.num_shards) for j in range(portions)]
    found = [file for file in files(source.path) if file.size]
    mean = sum(max(file.size, 0) for file in found) / max(len(found), 1) or 1.0
    share = mean * len(found) / lanes
    return [FilePart(file, j, m) for file in found for m in [_portions(file, mean, share)] for j in range(m)]


def _portions(file: File, mean: float, share: float) -> int:
    """How many readers share a file; `share` is what a lane should get of the source."""
    size = file.size if file.size > 0 else mean
    if _splits(file):
        return max(1, round(size * FINE / share))
    return 1 if size <= 1.5 * share and mean <= share else -int(-size // share)


def _splits(file: File) -> bool:
    """Whether a portion is found without reading what is before it."""
    return file.format in formats.RECORDS and not file.compression and file.size > 0


def dealt(sizes: Sequence[float], order: Sequence[int], lanes: int) -> list[list[int]]:
    """Deal parts to the lanes in the given order, each to the lane that has least so far."""
    loads = [(0.0, lane) for lane in range(lanes)]
    heapify(loads)
    hands: list[list[int]] = [[] for _ in range(lanes)]
    for part in order:
        load, lane = loads[0]
        hands[lane].append(part)
        heapreplace(loads, (load + sizes[part], lane))
    return hands


def beginning(source: Source, report: Report, characters: int) -> Iterator[Document]:
    """Documents from the beginning of several parts in turn, about so many characters; a small source whole.

    Raises:
        DataError: as `sources.documents`.
    """
    found = parts(source, 1)
    if len(found) > HEADS and (is_dataset(source) or sum(part.size for part in found) > characters):
        found = [found[i * len(found) // HEADS] for i in range(HEADS)]
    for document in _in_turn([_documents(part, source, report) for part in found]):
        yield document
        characters -= length(document)
        if characters <= 0:
            return


def _documents(part: Part, source: Source, report: Report) -> Iterator[Document]:
    for item in part.read(source).items:
        document = document_of(item.value, f"{part.name}:{item.line}", report)
        if document is not None:
            yield document


def _in_turn(heads: list[Iterator[Document]]) -> Iterator[Document]:
    while heads:
        for head in list(heads):
            document = next(head, None)
            if document is None:
                heads.remove(head)
            else:
                yield document
