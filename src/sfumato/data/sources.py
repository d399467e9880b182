"""Reading documents: text, JSON lines and Parquet files (compressed or not), folders, URLs, Hugging Face datasets."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from sfumato.config import DataConfig, Source
from sfumato.data.document import Chat, DataError, Document, Pair, Report, document_of, fault
from sfumato.data.files import files
from sfumato.data.formats import Item, read
from sfumato.data.hugging import dataset, is_dataset, streaming_key, table_rows
from sfumato.data.records import CONVERSATION
from sfumato.data.shards import beginning

__all__ = [
    "CONVERSATION",
    "Chat",
    "DataError",
    "Document",
    "Pair",
    "Report",
    "content_key",
    "content_keys",
    "documents",
    "fault",
    "labelled",
    "records",
    "texts",
]

SAMPLE = 1 << 26  # characters of streamed sources that a tokenizer is trained on


def documents(source: Source, report: Report) -> Iterator[Document]:
    """The documents of one source, in a fixed order; blank ones are left out, broken ones go to `report`.

    Raises:
        DataError: nothing to read there, or a broken line while `report.on_error` is "stop".
    """
    for name, items in _parts(source):
        for item in items:
            document = document_of(item.value, f"{name}:{item.line}", report)
            if document is not None:
                yield document


def texts(data: DataConfig) -> Iterator[str]:
    """The raw text of every source in turn (a chat as its contents, one a line), to train a tokenizer on.

    Of sources that are streamed it is the beginning alone.
    """
    report, share = Report(data.on_error), SAMPLE // max(1, len(data.sources))
    for source in data.sources:
        for document in beginning(source, report, share) if data.stream else documents(source, report):
            if isinstance(document, Pair):  # two texts, since they are encoded apart
                yield from [document.prompt] if isinstance(document.prompt, str) else [c for _, c in document.prompt]
                yield document.response
            else:
                yield document if isinstance(document, str) else "\n".join(content for _, content in document)


def labelled(path: str, text: str, label: str) -> list[tuple[str, str]]:
    """(text, label) of every record of a JSON-lines, Parquet or Hugging Face source that has a text which is not blank.

    Args:
        path: file, folder or hf:NAME.
        text: the key of a record that holds the text.
        label: the key that holds its label, a string or a whole number.

    Raises:
        DataError: nothing to read there, or a broken record; names its place.
    """
    found, report = [], Report()
    sources = (Source(path, field=text), Source(path, field=label))
    for (name, texts_), (_, labels) in zip(*map(_parts, sources), strict=True):
        for (line, value, _), (_, kind, _) in zip(texts_, labels, strict=True):
            kind = str(kind) if isinstance(kind, int) else kind
            if why := fault(value) or fault(kind):
                report.broken(f"{name}:{line}", why)
            if not isinstance(value, str) or not isinstance(kind, str):
                report.broken(f"{name}:{line}", "expected a text and a label, got a chat")
            elif value.strip():
                found.append((value, kind))
    return found


def records(source: Source, report: Report | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record of a JSON-lines, Parquet or Hugging Face source as it is, each with its place.

    Raises:
        DataError: nothing to read there, or a line that holds no record, unless a report counts it; names its place.
    """
    for name, items in _parts(source, whole=True):
        for line, value, _ in items:
            if isinstance(value, dict):
                yield f"{name}:{line}", value
                continue
            why = str(value) if isinstance(value, ValueError) else "expected JSON lines or a table, got a text"
            if report is None:
                raise DataError(f"{name}:{line}: {why}")
            report.broken(f"{name}:{line}", why)


def content_key(source: Source, *, streamed: bool = False) -> str:
    """Hex digest of all that decides which documents `source` holds: its bytes, formats, field and split.

    Args:
        source: what is read.
        streamed: go by sizes and a glance at each file, since reading all of it would be too much.
    """
    digest = hashlib.blake2b(digest_size=16)
    templates = [source.prompt, source.response] if source.response else []
    digest.update(json.dumps([source.field, source.split, *templates]).encode())
    if is_dataset(source):
        digest.update((streaming_key(source) if streamed else dataset(source)._fingerprint).encode())
    else:
        for file in files(source.path):
            content = file.glance() if streamed else file.digest()
            digest.update(f"{content}{file.format}{file.compression or file.format}\n".encode())
    return digest.hexdigest()


def content_keys(data: DataConfig) -> list[str]:
    """The key of every source, as it is read."""
    return [content_key(source, streamed=data.stream) for source in data.sources]


def _parts(source: Source, *, whole: bool = False) -> Iterator[tuple[str, Iterator[Item]]]:
    """The files of a source (or its one dataset), each with its name in error messages."""
    view = None if whole else source
    if is_dataset(source):
        yield source.path, table_rows(dataset(source), view)
    else:
        for file in files(source.path):
            yield file.shown, read(file, view)
