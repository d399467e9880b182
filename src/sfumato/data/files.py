"""The files of a source, on this machine or behind a URL, in an order that is the same everywhere."""

import glob
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from sfumato.data import compressed, remote
from sfumato.data.document import DataError

FORMATS = (".txt", ".md", ".jsonl", ".parquet")
_EDGE = 1 << 16  # bytes at either end of a large local file that tell it from others


@dataclass(frozen=True)
class File:
    """One file of a source."""

    name: str
    """Its path or URL."""
    inside: str
    """Its path below the source's folder; "" where it is the source."""
    size: int
    """Bytes; -1 where the server does not say."""
    mark: str = ""
    """What the server says about its content, such as an ETag."""

    @property
    def shown(self) -> str:
        """Its path or URL, for people to read."""
        return remote.shown(self.name)

    @property
    def format(self) -> str:
        """The suffix that tells how to read it, once it is decompressed."""
        return _format(PurePosixPath(remote.without_query(self.name)))

    @property
    def compression(self) -> str:
        """Its last suffix where that is one of a compressed file, else ""."""
        suffix = PurePosixPath(remote.without_query(self.name)).suffix
        return suffix if suffix in compressed.SUFFIXES else ""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Its decompressed bytes; errors as `compressed.open_binary`, or DataError from behind a URL."""
        if not remote.is_url(self.name):
            with compressed.open_binary(Path(self.name)) as handle:
                yield handle
        else:
            with (
                remote.opened(self.name, self.size) as packed,
                compressed.decompressed(cast(BinaryIO, packed), self.compression) as handle,
            ):
                yield handle

    def digest(self) -> str:
        """Of all its bytes; behind a URL, of its size and mark, since downloading it would be too much."""
        if remote.is_url(self.name):
            return self.glance()
        with open(self.name, "rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    def glance(self) -> str:
        """As `digest`, but of a local file too only by size and ends, so that it costs nothing."""
        if remote.is_url(self.name):
            seen = self.mark.encode()
        else:
            with open(self.name, "rb") as handle:
                seen = handle.read(_EDGE)
                handle.seek(max(_EDGE, self.size - _EDGE))
                seen += handle.read(_EDGE)
        return hashlib.blake2b(b"%d\n%s" % (self.size, seen), digest_size=16).hexdigest()


def files(name: str) -> list[File]:
    """The file itself, or every readable file of a folder or pattern, sorted by its path in there.

    Raises:
        DataError: there is none; one line.
    """
    known = ", ".join(FORMATS)
    found = _remote(name) if remote.is_url(name) else _local(name)
    if len(found) == 1 and not found[0].inside:
        if found[0].format not in FORMATS:
            raise DataError(f"{found[0].shown}: unknown kind of data; expected {known}, each also .gz, .xz or .zst")
        return found
    found = [
        file
        for file in sorted(found, key=lambda file: PurePosixPath(file.inside))
        if file.format in FORMATS and not any(part.startswith(".") for part in PurePosixPath(file.inside).parts)
    ]
    if not found:
        raise DataError(
            f"{remote.shown(name)}: no data in this folder; expected files that end in {known} (or these .gz, .xz, "
            ".zst)"
        )
    return found


def _remote(name: str) -> list[File]:
    return [File(*found) for found in remote.listed(name)]


def _local(name: str) -> list[File]:
    path = Path(name).expanduser()
    if path.is_file():
        return [File(str(path), "", path.stat().st_size)]
    if path.is_dir():
        inside = [file for file in path.rglob("*") if file.is_file() and _format(file) in FORMATS]
        return [File(str(file), file.relative_to(path).as_posix(), file.stat().st_size) for file in inside]
    matching = [Path(found) for found in glob.glob(str(path), recursive=True)]
    if not matching:
        raise DataError(f"{path}: no such file or folder; a Hugging Face dataset is named hf:NAME")
    base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
    return [
        File(str(file), file.relative_to(base).as_posix(), file.stat().st_size) for file in matching if file.is_file()
    ]


def _format(path: PurePosixPath | Path) -> str:
    return (path.with_suffix("") if path.suffix in compressed.SUFFIXES else path).suffix
