"""The records of files, folders and tables, here or behind a URL, and how any stretch of them is read by itself."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sfumato.data.document import DataError
from sfumato.data.files import File, files
from sfumato.sample.records import Record, fault, records_of

FORMATS = (".jsonl", ".txt", ".parquet")
GRAIN = 64  # records between two places of a file that a reader can begin at


@dataclass(frozen=True)
class Seen:
    """What a first look at a file has found."""

    file: File
    rows: int
    marks: tuple[tuple[int, int], ...] = ((0, 0),)
    """Of each `GRAIN`-th record the byte it begins at and the lines before it; the first alone where a file cannot be
    entered in the middle."""


@dataclass(frozen=True)
class Piece:
    """Some records of one file that follow one another."""

    file: File
    number: int
    """Of the first among all records of the input."""
    rows: int
    begin: int = 0
    """The byte to begin at."""
    line: int = 0
    """Lines before that."""
    skip: int = 0
    """Records between that place and the first."""


@dataclass(frozen=True)
class Input:
    """All files, in order."""

    files: tuple[Seen, ...]
    digest: str
    """Of what is in them; of a table behind a URL, of what its server says of it."""

    @property
    def rows(self) -> int:
        """Records in all."""
        return sum(seen.rows for seen in self.files)

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """Where the records from number `begin` up to `end` stand."""
        found, first = [], 0
        for seen in self.files:
            low, high = max(begin - first, 0), min(end - first, seen.rows)
            if low < high:
                mark = min(low // GRAIN, len(seen.marks) - 1)
                byte, line = seen.marks[mark]
                found.append(Piece(seen.file, first + low, high - low, byte, line, low - mark * GRAIN))
            first += seen.rows
        return found


def look(source: str) -> Input:
    """Read all of it once, to know what is in it.

    Args:
        source: JSON lines, a `.txt` with a record a line, or a Parquet table, which may be compressed (.gz, .xz, .zst),
            or a folder or pattern of these; a path or a URL.

    Raises:
        ValueError: there is nothing in it, or nothing that can be read twice.
        OSError: it cannot be read.
    """
    path = Path(source)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{source}: expected a file or folder, which is read twice, and no pipe")
    digest, seen = hashlib.blake2b(digest_size=16), list[Seen]()
    for file in files(source):
        if file.format in FORMATS:
            seen.append(_table(file, digest) if file.format == ".parquet" else _lines(file, digest))
            digest.update(f" {file.inside} {seen[-1].rows}\n".encode())
    found = Input(tuple(seen), digest.hexdigest())
    if not found.rows:
        raise DataError(f"{source}: no records in it; expected {', '.join(FORMATS)} with one a line or row")
    return found


def read(pieces: Sequence[Piece], key: str) -> Iterator[Record]:
    """The records of some pieces.

    Args:
        pieces: as `Input.pieces` has them.
        key: of the text in a line of a .txt.

    Raises:
        ValueError: a file that is damaged, or gone from behind its URL.
        OSError: a file cannot be read.
    """
    for piece in pieces:
        if piece.file.format == ".parquet":
            yield from _rows(piece)
            continue
        with piece.file.open() as lines:
            if piece.begin:
                lines.seek(piece.begin)
            plain, number = key if piece.file.format == ".txt" else "", piece.number - piece.skip
            found = records_of(lines, piece.file.name, plain, number=number, line=piece.line)
            yield from islice(found, piece.skip, piece.skip + piece.rows)


def _lines(file: File, digest: Any) -> Seen:
    marks, rows, byte, whole = [(0, 0)], 0, 0, bool(file.compression) or file.size < 0
    with file.open() as lines:
        for line, raw in enumerate(lines):
            digest.update(raw)
            if raw.strip():
                if rows and rows % GRAIN == 0 and not whole:
                    marks.append((byte, line))
                rows += 1
            byte += len(raw)
    return Seen(file, rows, tuple(marks))


def _table(file: File, digest: Any) -> Seen:
    with _parquet(file) as table:
        digest.update(file.digest().encode())
        return Seen(file, table.metadata.num_rows)


def _rows(piece: Piece) -> Iterator[Record]:
    with _parquet(piece.file) as table:
        first, wanted = 0, range(piece.skip, piece.skip + piece.rows)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first < wanted.stop and first + rows > wanted.start:
                for batch in table.iter_batches(batch_size=1024, row_groups=[group]):
                    for at, content in enumerate(batch.to_pylist(), first):
                        if at in wanted:
                            number, why = piece.number + at - wanted.start, fault(content)
                            yield Record(number, f"{piece.file.name}:{at + 1}", {} if why else content, why)
                    first += len(batch)
            else:
                first += rows


@contextmanager
def _parquet(file: File) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{file.name}: reading Parquet needs pyarrow; pip install 'sfumato[train]'") from None
    with file.open() as handle:
        try:  # a decompressing stream cannot seek cheaply, and Parquet is read from its end
            yield pyarrow.parquet.ParquetFile(io.BytesIO(handle.read()) if file.compression else handle)
        except pyarrow.ArrowException as error:
            raise DataError(f"{file.name}: unreadable Parquet ({str(error).splitlines()[0]})") from None
