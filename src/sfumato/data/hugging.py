"""Hugging Face datasets: by name, or from a folder that `save_to_disk` wrote; whole or streamed."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sfumato.config import Source
from sfumato.data.document import DataError
from sfumato.data.formats import Item, one_line
from sfumato.data.records import View, from_fields, missing, wanted
from sfumato.data.remote import is_url

SAVED = ("dataset_dict.json", "dataset_info.json")


def is_dataset(source: Source) -> bool:
    """Whether the library reads it: `hf:NAME`, or a folder that it wrote."""
    if is_url(source.path):
        return False
    return source.path.startswith("hf:") or any((Path(source.path).expanduser() / name).is_file() for name in SAVED)


def dataset(source: Source) -> Any:
    """`hf:NAME` or `hf:NAME:CONFIGURATION` by `datasets.load_dataset`; else a folder that `save_to_disk` wrote.

    Raises:
        DataError: it cannot be loaded, or the library is missing; one line.
    """
    datasets = _library(source)
    try:
        if source.path.startswith("hf:"):
            return datasets.load_dataset(*_name(source), split=source.split)
        found = datasets.load_from_disk(str(Path(source.path).expanduser()))
        return found[source.split] if isinstance(found, datasets.DatasetDict) else found
    except Exception as error:  # the library raises dozens of kinds, some with long reports
        raise _cannot(source, error) from None


def streaming_dataset(source: Source, shards: int) -> Any:
    """The same as a `datasets.IterableDataset`: nothing is read before it is asked for. Errors as `dataset`.

    Args:
        source: what to read.
        shards: into how many a dataset is cut that lies in a folder; by name they are what their files are.
    """
    if not source.path.startswith("hf:"):
        whole = dataset(source)
        return whole.to_iterable_dataset(num_shards=max(1, min(len(whole), shards)))
    try:
        return _library(source).load_dataset(*_name(source), split=source.split, streaming=True)
    except DataError:
        raise
    except Exception as error:
        raise _cannot(source, error) from None


def streaming_key(source: Source) -> str:
    """Digest of what the dataset is made of, without reading it. Errors as `dataset`."""
    if not source.path.startswith("hf:"):
        return dataset(source)._fingerprint
    try:
        files = _library(source).load_dataset_builder(*_name(source)).config.data_files or {}
    except DataError:
        raise
    except Exception as error:
        raise _cannot(source, error) from None
    # of a file on the hub its revision, of others an ETag or a time
    seen = [str(sorted(map(str, found.origin_metadata))) for _, found in sorted(files.items())]
    return hashlib.blake2b("\n".join([source.path, *seen]).encode(), digest_size=16).hexdigest()


def table_rows(table: Any, view: View) -> Iterator[Item]:
    """The rows of a dataset, in order."""
    fields = wanted(view, table.column_names)
    if not fields:
        yield Item(1, missing(view, table.column_names), 0)
        return
    for row, record in enumerate(table.select_columns(fields), 1):
        yield Item(row, from_fields(view, {name: record[name] for name in fields}), row)


def _name(source: Source) -> list[str]:
    return source.path.removeprefix("hf:").split(":")


def _library(source: Source) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source.path}: this needs the datasets package; pip install 'sfumato[train]'") from None
    return datasets


def _cannot(source: Source, error: Exception) -> DataError:
    return DataError(f"{source.path} (split {source.split}): cannot load this dataset: {one_line(error)}")
