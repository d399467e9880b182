"""Opening a file that may be compressed, so that a truncated one is an error and never a shorter text."""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

SUFFIXES = (".gz", ".xz", ".zst")


class Damaged(ValueError):
    """The compressed data is truncated or corrupt."""


class _ZstdReader(io.RawIOBase):
    """Zstandard frames as a readable stream; `zstandard.open` itself is silent about a truncated last frame."""

    def __init__(self, packed: BinaryIO):
        try:
            import zstandard
        except ImportError:
            raise ValueError("reading .zst needs zstandard; pip install 'sfumato[train]'") from None
        self._frame = lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        self._error = zstandard.ZstdError
        self._file = packed
        self._decoder = self._frame()
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(1 << 17)
            if not self._packed:
                if not self._decoder.eof:
                    raise EOFError("the last frame is incomplete")
                return 0
            if self._decoder.eof:
                self._decoder = self._frame()
            try:
                self._ready = memoryview(self._decoder.decompress(self._packed))
            except self._error as error:
                raise EOFError(str(error)) from None
            self._packed = self._decoder.unused_data if self._decoder.eof else b""
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of `path`, by its last suffix.

    Raises:
        Damaged: from any read inside the `with` block, when the compressed data is broken.
        OSError: the file cannot be opened or read.
    """
    with open(path, "rb") as packed, decompressed(packed, path.suffix) as handle:
        yield handle


@contextmanager
def decompressed(packed: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """What an open file holds, decompressed by the suffix of its name; see `open_binary`."""
    try:
        match suffix:
            case ".gz":
                handle = gzip.open(packed)
            case ".xz":
                handle = lzma.open(packed)
            case ".zst":
                handle = io.BufferedReader(_ZstdReader(packed), 1 << 17)
            case _:
                handle = packed
        with handle:
            yield cast(BinaryIO, handle)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise Damaged(f"damaged {suffix} data ({error})") from None
