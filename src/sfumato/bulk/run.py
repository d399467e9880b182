"""What is done with each record of a large input, shard by shard, here or on a cluster."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sfumato.bulk.inputs import Piece, look, read
from sfumato.bulk.shards import Shards, begun, is_file, partial, records
from sfumato.data.compressed import SUFFIXES
from sfumato.data.remote import is_url
from sfumato.sample.journal import Busy, Journal, OtherRun
from sfumato.sample.records import Record

Progress = Callable[[int, int], None]  # records done, and their number
Counts = Mapping[str, float]  # what adds up over records
PATIENCE = 120.0  # seconds that a disk of several machines may take to see that a writer is gone
BATCHES = (16, 64)  # in a shard: fewer batches balance better, with more of them less time is spent on part of one
LOOK = 2.0  # seconds between two looks at what is under way


class Work(Protocol):
    """What is done with records: their answers are appended to a journal, behind those that it holds."""

    def __call__(self, records: Iterable[Record], journal: Journal) -> Counts:
        """Do it, and count: `rows` in the journal, of these `resumed` and `errors`, and whatever else adds up."""
        ...


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of work where it is not done."""

    mark: str
    """A key of every record that it writes."""
    key: str
    """Of the text in a line of a .txt."""
    load: Callable[[], Work]
    """Makes ready for work; can be sent to another process."""
    count: Callable[[Iterable[Mapping[str, Any]]], Counts]
    """What is counted in records that an earlier run wrote."""
    about: dict[str, Any]
    """All that the output depends on beside the input, as JSON."""
    batch: int
    """Records that are worked on at a time."""


@dataclass(frozen=True)
class Shard:
    """Some records, and the file that will hold their answers."""

    pieces: tuple[Piece, ...]
    path: Path

    def do(self, work: Work, kind: Kind) -> Counts:
        """Do what is missing, and give the file its name."""
        with _journal(partial(self.path), kind.mark) as journal:
            done = work(read(self.pieces, kind.key), journal)
        partial(self.path).replace(self.path)
        return done


def sharded(source: str, target: str, replicas: int = 0) -> bool:
    """Whether a run must be one of shards, and not of one file of lines to another."""
    path = Path(source)
    special = is_url(source) or path.is_dir() or path.suffix in (".parquet", *SUFFIXES) or "*" in path.name
    return bool(replicas) or special or not is_file(target) or begun(target)


def run(
    kind: Kind,
    source: str,
    target: str,
    *,
    replicas: int = 0,
    address: str = "",
    shard_rows: int = 0,
    check: Callable[[Iterable[Record]], object] | None = None,
    progress: Progress | None = None,
) -> Counts:
    """Work through an input.

    Args:
        kind: what is done.
        source: as `inputs.look` takes it.
        target: a `.jsonl` file, or a folder for shards; on a disk that all machines see.
        replicas: workers on Ray; 0 = this process alone.
        address: of a Ray cluster; "" = as in `cluster.connected`.
        shard_rows: records in a shard; 0 = by the batch and the number of records.
        check: reads all records of a run that begins, to end it (ValueError) before anything is written.
        progress: told what is done, now and then, from a thread of its own.

    Returns:
        What the work counts, all shards together.

    Raises:
        ValueError: an input or output that cannot be used, a broken record, or no such cluster.
        OSError: files that cannot be read or written.
    """
    if Path(source).exists() and Path(target).exists() and Path(source).samefile(target):
        raise ValueError(f"{target}: input and output are the same; name another output")
    found = look(source)
    if check and not begun(target):
        check(read(found.pieces(0, found.rows), kind.key))
    size = shard_rows or shard_size(found.rows, kind.batch, replicas)
    manifest = {"rows": found.rows, "shard_rows": size, "input": found.digest, **kind.about}
    with Shards(target, manifest, kind.mark) as shards:
        missing, done = shards.missing(), {"rows": 0.0}
        for i in sorted(set(range(shards.count)) - set(missing)):
            _add(done, kind.count(records(shards.path(i))))
        todo = [Shard(tuple(found.pieces(*shards.bounds(i))), shards.path(i)) for i in missing]
        try:
            with _watched(lambda: int(done["rows"]) + shards.under_way(), found.rows, progress):
                for part in _parts(todo, kind, replicas, address):
                    _add(done, part)
        except OtherRun:
            shards.give_up()
            raise OtherRun.at(target) from None
        shards.gather()
    return done


def shard_size(rows: int, batch: int, replicas: int) -> int:
    """Records in a shard, where nobody says: some shards for each worker, unless that made them too small."""
    few, many = (batch * count for count in BATCHES)
    workers = max(1, replicas)
    return max(1, min(max(few, min(many, -(-rows // (8 * workers)))), -(-rows // workers)))


def _parts(todo: Sequence[Shard], kind: Kind, replicas: int, address: str) -> Iterator[Counts]:
    """What each shard has counted, as they are done."""
    if not todo:
        return
    if replicas:
        from sfumato.bulk.cluster import on_ray

        yield from on_ray(todo, kind, replicas=replicas, address=address)
        return
    work = kind.load()
    for shard in todo:
        yield shard.do(work, kind)


def _add(total: dict[str, float], part: Counts) -> None:
    for name, value in part.items():
        total[name] = total.get(name, 0) + value


@contextmanager
def _watched(done: Callable[[], int], total: int, progress: Progress | None) -> Iterator[None]:
    """Tell how far the work is, for as long as the block runs."""
    if progress is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        progress(done(), total)
        while not ended.wait(LOOK):
            progress(done(), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _journal(path: Path, mark: str) -> Journal:
    """The journal, as soon as whoever held it is known to be gone."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return Journal(path, mark)
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
