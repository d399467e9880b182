"""Reading the values in a file: a text, JSON lines or Parquet; all of it, or one of several equal portions.

A portion is what one of several readers takes, so that all of them together read each value once. Of JSON lines that
are not compressed it is a stretch of bytes, of Parquet a run of rows, and of what can only be read from its beginning
every so many-th line.
"""

import codecs
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from sfumato.data import compressed
from sfumato.data.document import DataError
from sfumato.data.files import File
from sfumato.data.records import View, from_fields, from_json, missing, wanted

RECORDS = (".jsonl", ".parquet")  # formats of many documents; the others hold one


class Item(NamedTuple):
    """A value of a file."""

    line: int | str
    """Where it stands: line or row, counted from 1, or a byte."""
    value: Any
    """What is wanted of the record, or the ValueError that says why there is none."""
    after: int
    """Where the same portion goes on behind it."""


def read(file: File, view: View, portion: int = 0, portions: int = 1, after: int = 0) -> Iterator[Item]:
    """The values of one portion of a file, in order.

    Args:
        file: of a known format; a text is one value, whatever the portion.
        view: what is wanted of each record.
        portion: which one, counted from 0.
        portions: how many there are.
        after: go on behind the item that said so; 0 = from the beginning.
    """
    match file.format:
        case ".jsonl" if file.compression or file.size < 0:
            return _numbered_lines(file, view, portion, portions, after)
        case ".jsonl":
            return _lines(file, view, portion, portions, after)
        case ".parquet":
            return _rows(file, view, portion, portions, after)
        case _:
            return _text(file)


def _text(file: File) -> Iterator[Item]:
    """The whole file as one document; a fault is given at its own line."""
    try:
        with file.open() as handle:
            raw = handle.read().removeprefix(codecs.BOM_UTF8)
    except compressed.Damaged as error:
        yield Item(1, error, 1)
        return
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        yield Item(raw.count(b"\n", 0, error.start) + 1, ValueError(f"not UTF-8 (byte 0x{raw[error.start]:02x})"), 1)
        return
    fault = text.find("\0")
    if fault < 0:
        yield Item(1, text, 1)
    else:
        yield Item(text.count("\n", 0, fault) + 1, ValueError("text holds a NUL character: remove it"), 1)


def _numbered_lines(file: File, view: View, portion: int, portions: int, after: int) -> Iterator[Item]:
    line = 0
    try:
        with file.open() as handle:
            for line, raw in enumerate(handle, 1):
                if line > after and line % portions == portion and (raw := _line(raw, line == 1)):
                    yield Item(line, from_json(raw, view), line)
    except compressed.Damaged as error:
        yield Item(line + 1, error, line + 1)


def _lines(file: File, view: View, portion: int, portions: int, after: int) -> Iterator[Item]:
    """The lines that begin in a stretch of the file's bytes."""
    begin, end = (file.size * i // portions for i in (portion, portion + 1))
    line = 0 if not begin and not after else None  # nobody has counted those before a later byte
    with file.open() as handle:
        at = after or begin
        if at:
            handle.seek(at - 1)
            at += len(handle.readline()) - 1  # of a line that began before; where one ends here, nothing is lost
        while at < end and (raw := handle.readline()):
            begun, at = at, at + len(raw)
            line = None if line is None else line + 1
            if raw := _line(raw, begun == 0):
                yield Item(line or f"byte {begun}", from_json(raw, view), at)


def _line(raw: bytes, first: bool) -> bytes:
    """The line, of a file's first one without its mark; empty where it is blank."""
    raw = raw.removeprefix(codecs.BOM_UTF8) if first else raw
    return raw if raw.strip() else b""


def _rows(file: File, view: View, portion: int, portions: int, after: int) -> Iterator[Item]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{file.shown}: reading Parquet needs pyarrow; pip install 'sfumato[train]'") from None
    row = after
    try:
        with file.open() as handle:
            table = pyarrow.parquet.ParquetFile(_seekable(file, handle))
            fields = wanted(view, table.schema_arrow.names)
            if not fields:
                yield Item(1, missing(view, table.schema_arrow.names), table.metadata.num_rows)
                return
            begin, end = (table.metadata.num_rows * i // portions for i in (portion, portion + 1))
            row = max(begin, after)
            for values in _values(table, fields, row, end):
                row += 1
                yield Item(row, from_fields(view, dict(zip(fields, values, strict=True))), row)
    except (compressed.Damaged, pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's; Arrow's own have no number
            raise
        yield Item(row + 1, ValueError(f"unreadable Parquet ({one_line(error)})"), row + 1)


def _seekable(file: File, handle: BinaryIO) -> Any:
    """Parquet is read from its end, and a decompressing stream cannot seek cheaply."""
    return io.BytesIO(handle.read()) if file.compression or file.size < 0 else handle


def _values(table: Any, fields: list[str], row: int, end: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a Parquet file from `row` up to `end`; groups that hold none of them are not read."""
    begin = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if begin + size > row and begin < end:
            at = begin
            for batch in table.iter_batches(batch_size=1024, row_groups=[group], columns=fields):
                first, last = max(row - at, 0), min(end - at, len(batch))
                if first < last:
                    part = batch.slice(first, last - first)
                    yield from zip(*(part.column(name).to_pylist() for name in fields), strict=True)
                at += len(batch)
        begin += size


def one_line(error: Exception) -> str:
    """The first line of what an error of another library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
