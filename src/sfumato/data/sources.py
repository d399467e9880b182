"""Reading documents: text, JSON lines and Parquet files (compressed or not), folders, Hugging Face datasets."""

import codecs
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from sfumato.config import DataConfig, Source
from sfumato.data import compressed
from sfumato.data.template import fields_of, filled
from sfumato.text.chat import ROLES
from sfumato.text.tokenizer import check_text

FORMATS = (".txt", ".md", ".jsonl", ".parquet")
Chat = tuple[tuple[str, str], ...]  # (role, content) of each message
CONVERSATION, PAIR = "messages", ("prompt", "response")  # keys of a record that lacks the field that was asked for
Item = tuple[int, Any]  # line (or row of a table), and the value there, or the ValueError that says why there is none


class DataError(ValueError):
    """Training text is missing, empty or unreadable."""


@dataclass(frozen=True)
class Pair:
    """A prompt, which is only ever read, and the response to it, which is learned and scored."""

    prompt: str | Chat
    """A text, or the turns of a conversation, of which none is learned."""
    response: str


Document = str | Chat | Pair


@dataclass
class Report:
    """What was wrong with the lines of a source, and what to do about it.

    Attributes:
        on_error: "stop" raises at the first broken line, "skip" counts it.
        skipped: broken lines so far.
        examples: the first few, each as `file:line: why`.
    """

    on_error: str = "stop"
    skipped: int = 0
    examples: list[str] = field(default_factory=list)

    def broken(self, where: str, why: str) -> None:
        """Count a broken line, or raise `DataError` when they must stop the run."""
        if self.on_error == "stop":
            raise DataError(f"{where}: {why} (--data.on_error skip leaves such lines out)")
        self.skipped += 1
        if len(self.examples) < 5:
            self.examples.append(f"{where}: {why}")


def documents(source: Source, report: Report) -> Iterator[Document]:
    """The documents of one source, in a fixed order; blank ones are left out, broken ones go to `report`.

    Raises:
        DataError: nothing to read there, or a broken line while `report.on_error` is "stop".
    """
    for name, items in _parts(source):
        for line, value in items:
            if why := fault(value):
                report.broken(f"{name}:{line}", why)
            elif isinstance(value, str):
                if value.strip():
                    yield value
            elif isinstance(value, Pair):
                yield value if isinstance(value.prompt, str) else Pair(_chat(value.prompt), value.response)
            elif value:
                yield _chat(value)


def texts(data: DataConfig) -> Iterator[str]:
    """The raw text of every source in turn (a chat as its contents, one a line), to train a tokenizer on."""
    for source in data.sources:
        for document in documents(source, Report(data.on_error)):
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
        for (line, value), (_, kind) in zip(texts_, labels, strict=True):
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
        for line, value in items:
            if isinstance(value, dict):
                yield f"{name}:{line}", value
                continue
            why = str(value) if isinstance(value, ValueError) else "expected JSON lines or a table, got a text"
            if report is None:
                raise DataError(f"{name}:{line}: {why}")
            report.broken(f"{name}:{line}", why)


def content_key(source: Source) -> str:
    """Hex digest of all that decides which documents `source` holds: its bytes, formats, field and split."""
    digest = hashlib.blake2b(digest_size=16)
    templates = [source.prompt, source.response] if source.response else []
    digest.update(json.dumps([source.field, source.split, *templates]).encode())
    if _is_dataset(source):
        digest.update(_dataset(source)._fingerprint.encode())
    else:
        for path in _files(source.path):
            with open(path, "rb") as handle:
                content = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            digest.update(f"{content}{_format(path)}{path.suffix}\n".encode())
    return digest.hexdigest()


_View = Source | None  # what of a record is wanted: the document that a source makes of it, or all of it


def _parts(source: Source, *, whole: bool = False) -> Iterator[tuple[str, Iterator[Item]]]:
    """The files of a source (or its one dataset), each with its name in error messages."""
    view = None if whole else source
    if _is_dataset(source):
        yield source.path, _table_rows(_dataset(source), view)
        return
    for path in _files(source.path):
        match _format(path):
            case ".jsonl":
                yield str(path), _json_lines(path, view)
            case ".parquet":
                yield str(path), _parquet(path, view)
            case _:
                yield str(path), _text(path)


def _format(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in compressed.SUFFIXES else path).suffix


def _files(name: str) -> list[Path]:
    """The file itself, or every readable file of a folder, sorted so that the order is the same everywhere."""
    path, known = Path(name).expanduser(), ", ".join(FORMATS)
    if path.is_file():
        if _format(path) not in FORMATS:
            raise DataError(f"{path}: unknown kind of data; expected {known}, each also .gz, .xz or .zst")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; a Hugging Face dataset is named hf:NAME")
    inside = {file.relative_to(path): file for file in path.rglob("*") if file.is_file() and _format(file) in FORMATS}
    files = [inside[key] for key in sorted(inside) if not any(part.startswith(".") for part in key.parts)]
    if not files:
        raise DataError(f"{path}: no data in this folder; expected files that end in {known} (or these .gz, .xz, .zst)")
    return files


def fault(value: Any) -> str | None:
    """Why `value` is no document, or None when it is one."""
    if isinstance(value, ValueError):
        return str(value)
    if isinstance(value, str):
        try:
            check_text(value)
        except ValueError as error:
            return str(error)
        return None
    if isinstance(value, Pair):
        return _pair_fault(value)
    if not isinstance(value, list):
        return f"expected a string or a list of messages, got {type(value).__name__}"
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"message {index} must have a role and a content string"
        if message.get("role") not in ROLES:
            return f"message {index} has role {message.get('role')!r}, expected one of {', '.join(ROLES)}"
        if why := fault(message["content"]):
            return f"message {index}: {why}"
    return None


def _chat(messages: Any) -> Chat:
    return tuple((message["role"], message["content"]) for message in messages)


def _pair_fault(pair: Pair) -> str | None:
    for name, part in vars(pair).items():
        if name == "prompt" and isinstance(part, list) and part:
            pass
        elif not isinstance(part, str):
            return f"{name} must be a string, got {type(part).__name__}"
        if why := fault(part):
            return f"{name}: {why}"
    return None if pair.response.strip() else "response is empty"


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte 0x{raw[error.start]:02x} at byte {error.start})") from None


def _text(path: Path) -> Iterator[Item]:
    """The whole file as one document; a fault is given at its own line."""
    try:
        with compressed.open_binary(path) as handle:
            raw = handle.read().removeprefix(codecs.BOM_UTF8)
    except compressed.Damaged as error:
        yield 1, error
        return
    try:
        text = raw.decode()
        fault = text.find("\0")
        yield (
            (1, text)
            if fault < 0
            else (text.count("\n", 0, fault) + 1, ValueError("text holds a NUL character: remove it"))
        )
    except UnicodeDecodeError as error:
        yield raw.count(b"\n", 0, error.start) + 1, ValueError(f"not UTF-8 (byte 0x{raw[error.start]:02x})")


def _json_lines(path: Path, view: _View) -> Iterator[Item]:
    line = 0
    try:
        with compressed.open_binary(path) as handle:
            for line, raw in enumerate(handle, 1):
                raw = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
                if raw.strip():
                    yield line, _json_value(raw, view)
    except compressed.Damaged as error:
        yield line + 1, error


def _json_value(raw: bytes, view: _View) -> Any:
    try:
        record = json.loads(_utf8(raw))
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return ValueError("JSON nested too deeply")
    except ValueError as error:
        return error
    if not isinstance(record, dict):
        return ValueError(f"expected a JSON object, got {type(record).__name__}")
    wanted = _wanted(view, record)
    return _value(view, {name: record[name] for name in wanted}) if wanted else _missing(view, record)


def _wanted(source: _View, names: Collection[str]) -> list[str]:
    """The fields that make a record's document; empty where it lacks one.

    Those that the source's templates name, or its key, or else a conversation or a pair.
    """
    if source is None:
        return list(names)
    if source.response:
        fields = fields_of(source.response, "response") + (fields_of(source.prompt, "prompt") if source.prompt else [])
        return list(dict.fromkeys(fields)) if all(field in names for field in fields) else []
    if source.field in names or CONVERSATION in names:
        return [source.field if source.field in names else CONVERSATION]
    return list(PAIR) if all(name in names for name in PAIR) else []


def _value(source: _View, record: Mapping[str, Any]) -> Any:
    """The document that the wanted fields make: one value, a pair, or the ValueError that says why there is none."""
    if source is None:
        return dict(record)
    if not source.response:
        columns = list(record.values())
        return columns[0] if len(columns) == 1 else Pair(*columns)
    try:
        response = filled(source.response, record, "response")
        return Pair(filled(source.prompt, record, "prompt"), response) if source.prompt else response
    except ValueError as error:
        return error


def _missing(source: _View, names: Any) -> ValueError:
    if source is None:
        return ValueError("the record is empty")
    keys = [source.field]
    if source.response:
        keys = fields_of(source.response, "response") + (fields_of(source.prompt, "prompt") if source.prompt else [])
    key = next((key for key in keys if key not in names), keys[0])
    return ValueError(f"no field {key!r}; it has {', '.join(map(str, list(names)[:8])) or 'none'}")


def _parquet(path: Path, source: _View) -> Iterator[Item]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; pip install 'sfumato[train]'") from None
    row = 0
    try:
        with compressed.open_binary(path) as handle:
            # a decompressing stream cannot seek cheaply, and Parquet is read from its end
            table = pyarrow.parquet.ParquetFile(handle if path.suffix == ".parquet" else io.BytesIO(handle.read()))
            names = table.schema_arrow.names
            wanted = _wanted(source, names)
            if not wanted:
                yield 1, _missing(source, names)
                return
            for batch in table.iter_batches(batch_size=1024, columns=wanted):
                for values in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                    row += 1
                    yield row, _value(source, dict(zip(wanted, values, strict=True)))
    except (compressed.Damaged, pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's; Arrow's own have no number
            raise
        yield row + 1, ValueError(f"unreadable Parquet ({_one_line(error)})")


def _is_dataset(source: Source) -> bool:
    folder = Path(source.path).expanduser()
    return source.path.startswith("hf:") or any(
        (folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")
    )


def _dataset(source: Source) -> Any:
    """`hf:NAME` or `hf:NAME:CONFIGURATION` by `datasets.load_dataset`; else a folder that `save_to_disk` wrote."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source.path}: this needs the datasets package; pip install 'sfumato[train]'") from None
    try:
        if source.path.startswith("hf:"):
            return datasets.load_dataset(*source.path.removeprefix("hf:").split(":"), split=source.split)
        found = datasets.load_from_disk(str(Path(source.path).expanduser()))
        return found[source.split] if isinstance(found, datasets.DatasetDict) else found
    except Exception as error:  # the library raises dozens of kinds, some with long reports
        raise DataError(f"{source.path} (split {source.split}): cannot load this dataset: {_one_line(error)}") from None


def _table_rows(dataset: Any, source: _View) -> Iterator[Item]:
    wanted = _wanted(source, dataset.column_names)
    if not wanted:
        return iter([(1, _missing(source, dataset.column_names))])
    records = dataset.select_columns(wanted)
    return zip(count(1), (_value(source, {name: record[name] for name in wanted}) for record in records), strict=False)


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
