"""The records of files, folders and tables, here or far away, and how any stretch of them is read by itself."""

import hashlib
import io
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from sfumato.config import ConfigError
from sfumato.data import compressed
from sfumato.sample.records import Record, fault, records_of

FORMATS = (".jsonl", ".txt", ".parquet")
GRAIN = 64  # records between two places that a reader can begin at


@dataclass(frozen=True)
class File:
    """One file of the input, as a first look has found it."""

    path: str
    rows: int
    marks: tuple[tuple[int, int], ...] = ((0, 0),)
    """Of each `GRAIN`-th record the byte it begins at and the lines before it; the first alone where a file cannot be
    entered in the middle."""


@dataclass(frozen=True)
class Piece:
    """Some records of one file that follow one another."""

    path: str
    number: int
    """Of the first among all records of the input."""
    rows: int
    begin: int = 0
    """The byte to begin at."""
    line: int = 0
    """Lines before that."""
    skip: int = 0
    """Records behind that place, and before the first."""


@dataclass(frozen=True)
class Input:
    """All files, in order."""

    files: tuple[File, ...]
    digest: str
    """Of what is in them; of a table of its description alone."""

    @property
    def rows(self) -> int:
        """Records in all."""
        return sum(file.rows for file in self.files)

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """Where the records from number `begin` up to `end` stand."""
        found, first = [], 0
        for file in self.files:
            low, high = max(begin - first, 0), min(end - first, file.rows)
            if low < high:
                mark = min(low // GRAIN, len(file.marks) - 1)
                byte, line = file.marks[mark]
                found.append(Piece(file.path, first + low, high - low, byte, line, low - mark * GRAIN))
            first += file.rows
        return found


def look(source: str) -> Input:
    """Read all of it once, to know what is in it.

    Args:
        source: JSON lines, a `.txt` with a record a line, a Parquet table, or a folder of these, which may be compressed
            (.gz, .xz, .zst); a path, or a URL that fsspec can open.

    Raises:
        ValueError: nothing in it, or nothing that can be read twice.
        OSError: it cannot be read.
    """
    digest, files = hashlib.blake2b(digest_size=16), []
    for path in _paths(source):
        file = _table(path, digest) if _kind(path) == ".parquet" else _lines(path, digest)
        digest.update(f" {posixpath.basename(path)} {file.rows}\n".encode())
        files.append(file)
    found = Input(tuple(files), digest.hexdigest())
    if not found.rows:
        raise ConfigError(f"{source}: no records in it; expected one a line")
    return found


def read(pieces: Sequence[Piece], key: str) -> Iterator[Record]:
    """The records of some pieces.

    Args:
        pieces: as `Input.pieces` has them.
        key: of the text in a line of a .txt.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file that is damaged.
    """
    for piece in pieces:
        if _kind(piece.path) == ".parquet":
            yield from _rows(piece)
            continue
        with _opened(piece.path) as file:
            if piece.begin:
                file.seek(piece.begin)
            plain = key if _kind(piece.path) == ".txt" else ""
            number = piece.number - piece.skip
            found = records_of(file, piece.path, plain, number=number, line=piece.line)
            yield from islice(found, piece.skip, piece.skip + piece.rows)


def _lines(path: str, digest: Any) -> File:
    marks, rows, byte = [], 0, 0
    seekable = posixpath.splitext(path)[1] not in compressed.SUFFIXES
    with _opened(path) as file:
        for line, raw in enumerate(file):
            digest.update(raw)
            if raw.strip():
                if rows % GRAIN == 0 and (seekable or not rows):
                    marks.append((byte if seekable else 0, line if seekable else 0))
                rows += 1
            byte += len(raw)
    return File(path, rows, tuple(marks) or ((0, 0),))


def _table(path: str, digest: Any) -> File:
    with _parquet(path) as table:
        digest.update(table.metadata.serialized_size.to_bytes(8, "little") + str(table.schema_arrow).encode())
        for group in range(table.num_row_groups):
            about = table.metadata.row_group(group)
            digest.update(f"{about.num_rows} {about.total_byte_size} ".encode())
        return File(path, table.metadata.num_rows)


def _rows(piece: Piece) -> Iterator[Record]:
    with _parquet(piece.path) as table:
        first, wanted = 0, range(piece.skip, piece.skip + piece.rows)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first < wanted.stop and first + rows > wanted.start:
                for batch in table.iter_batches(batch_size=1024, row_groups=[group]):
                    for at, content in enumerate(batch.to_pylist(), first):
                        if at in wanted:
                            number, why = piece.number + at - wanted.start, fault(content)
                            yield Record(number, f"{piece.path}:{at + 1}", {} if why else content, why)
                    first += len(batch)
            else:
                first += rows


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow; pip install 'sfumato[train]'") from None
    with _opened(path) as file:
        try:
            yield pyarrow.parquet.ParquetFile(file if path.endswith(".parquet") else io.BytesIO(file.read()))
        except pyarrow.ArrowInvalid as error:
            raise ConfigError(f"{path}: unreadable Parquet ({str(error).splitlines()[0]})") from None


def _kind(path: str) -> str:
    stem, suffix = posixpath.splitext(path)
    return posixpath.splitext(stem)[1] if suffix in compressed.SUFFIXES else suffix


def _far(source: str) -> bool:
    return "://" in source


def _fsspec(source: str) -> Any:
    try:
        import fsspec
    except ImportError:
        raise ConfigError(f"{source}: reading a URL needs fsspec; pip install 'sfumato[remote]'") from None
    return fsspec


def _paths(source: str) -> list[str]:
    """The file itself, or the files of a folder, sorted so that the order is the same everywhere."""
    if _far(source):
        system, path = _fsspec(source).core.url_to_fs(source)
        if not system.isdir(path):
            return [source]
        inside = [system.unstrip_protocol(name) for name in system.find(path)]
        prefix = system.unstrip_protocol(path)
    else:
        path = Path(source).expanduser()
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ConfigError(f"{source}: expected a file or folder, which is read twice, and no pipe")
        if not path.is_dir():
            return [str(path)]
        inside, prefix = [str(file) for file in path.rglob("*") if file.is_file()], str(path)
    hidden = {name for name in inside if any(part.startswith(".") for part in name[len(prefix) :].split("/"))}
    found = sorted(name for name in inside if _kind(name) in FORMATS and name not in hidden)
    if not found:
        raise ConfigError(f"{source}: no data in this folder; expected files that end in {', '.join(FORMATS)}")
    return found


def _opened(path: str) -> AbstractContextManager[IO[bytes]]:
    """The file's bytes, decompressed."""
    if _far(path):
        return _fsspec(path).open(path, "rb", compression="infer")
    return cast("AbstractContextManager[IO[bytes]]", compressed.open_binary(Path(path)))
