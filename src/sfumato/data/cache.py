"""Tokenised corpora, kept on disk under a name made from their content and opened as memory maps."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sfumato.config import DataConfig, Source
from sfumato.data.document import LONGEST, Chat, DataError, Document, Pair, Report, Section, sections
from sfumato.data.remote import shown
from sfumato.data.shards import beginning
from sfumato.data.sources import content_key, documents
from sfumato.text.interface import AnyTokenizer

FORMAT = 2  # of the files in a cache folder; another number makes another folder
CHUNK = 1000  # documents tokenised at a time
BEGINNING = 1 << 23  # characters of a streamed source that are read ahead, for their held-out documents
DAY = 86400  # seconds
COLUMNS = ("offsets", "prompts", "bytes", "hashes")
Progress = Callable[[str, int, int], None]  # source path, documents so far, tokens so far


class Encoder(Protocol):
    """How documents become tokens."""

    @property
    def key(self) -> str:
        """Whatever the tokens depend on besides the documents and the tokenizer."""
        ...

    def __call__(self, found: Iterable[Document], tokenizer: AnyTokenizer) -> "Iterator[Encoded]":
        """The documents in their order; one may become several."""
        ...


@dataclass(frozen=True)
class Corpus:
    """One tokenised source.

    Attributes:
        path: the source as the user wrote it.
        key: digest of its content, the tokenizer and the way it was tokenised.
        tokens: all documents one after the other, each with its end token; uint16 or uint32, memory-mapped.
        offsets: int64, where each document begins in `tokens`, and at last their number.
        prompts: int64, how many tokens at the head of each document are a prompt: context, never noised or scored.
        bytes: int64, UTF-8 bytes of each document's scored text.
        hashes: uint64, of each document's text.
        train: int64, the documents to train on.
        held_out: int64, the documents kept for evaluation, ordered by hash.
        report: lines that were left out.
        content: digest of what the source held, whatever reads it; see `content_key`.
        whole: False where it is only the beginning of what training streams.
    """

    path: str
    key: str
    tokens: np.ndarray
    offsets: np.ndarray
    prompts: np.ndarray
    bytes: np.ndarray
    hashes: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    report: Report
    content: str = ""
    whole: bool = True

    def length(self, document: int) -> int:
        """Tokens in a document, its end token included."""
        return int(self.offsets[document + 1] - self.offsets[document])


def open_corpora(
    data: DataConfig, tokenizer: AnyTokenizer, progress: Progress | None = None, encoder: Encoder | None = None
) -> list[Corpus]:
    """Read and tokenise every source, or open what an earlier call left in the cache.

    Of sources that are streamed it is their beginning, for evaluation: training reads them itself.
    The split depends on each document's text alone: its hash decides. So the same text is on the same side in every
    source, order and tokenizer. Where there are two texts or more, at least one is held out and one is not.

    Args:
        data: the sources, how much to hold out, and where the cache is.
        tokenizer: turns text into tokens.
        progress: called after each chunk of documents with the source's path, documents and tokens so far.
        encoder: makes the token rows; None = `Plain`, whole documents.

    Returns:
        One corpus a source, in their order.

    Raises:
        DataError: nothing to read, or a broken line while `data.on_error` is "stop".
        OSError: the cache cannot be written.
    """
    if not data.sources:
        raise DataError("no data: give --data.sources PATH (a file, a folder or hf:NAME)")
    root = Path(data.cache or os.environ.get("SFUMATO_CACHE") or "~/.cache/sfumato").expanduser() / "data"
    encoder = encoder or Plain()
    opened = [_open_source(source, root, data, tokenizer, encoder, progress) for source in data.sources]
    limit = held_out_limit(opened, data.held_out)
    return [_split(corpus, limit) for corpus in opened]


def held_out_limit(corpora: Sequence[Corpus], held_out: float) -> int:
    """Documents whose hash is less are held out: about that share of them all, but at least one, and not each."""
    lowest, highest = (int(f(f(corpus.hashes) for corpus in corpora)) for f in (min, max))
    return min(max(int(held_out * 2.0**64), lowest + 1), highest) if held_out else 0


def _split(corpus: Corpus, limit: int) -> Corpus:
    held_out = corpus.hashes < np.uint64(limit)
    chosen = np.flatnonzero(held_out)
    return replace(
        corpus,
        train=np.flatnonzero(~held_out),
        held_out=chosen[np.argsort(corpus.hashes[chosen], kind="stable")],
    )


def _open_source(
    source: Source, root: Path, data: DataConfig, tokenizer: AnyTokenizer, encoder: Encoder, progress: Progress | None
) -> Corpus:
    content = content_key(source, streamed=data.stream)
    parts = [str(FORMAT), encoder.key, content, tokenizer.identity]
    parts += [f"beginning {BEGINNING}"] if data.stream else []
    key = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    corpus = _load(root / key, source.path)
    if corpus is None or (corpus.report.skipped and data.on_error == "stop"):  # it raises at the broken line
        report = Report(data.on_error)
        found = beginning(source, report, BEGINNING) if data.stream else documents(source, report)
        _build(root / key, shown(source.path), report, encoder(found, tokenizer), tokenizer.vocab_size, progress)
        corpus = _load(root / key, source.path)
        if corpus is None:
            raise DataError(f"{root / key}: the cache written here cannot be read back; set --data.cache elsewhere")
    return replace(corpus, content=content, whole=not data.stream)


def _load(folder: Path, path: str) -> Corpus | None:
    """Open a cache folder; None when it is missing or broken."""
    try:
        about = json.loads((folder / "about.json").read_text())
        # plain views of the maps: slicing np.memmap itself is ten times slower
        tokens = np.asarray(np.memmap(folder / "tokens.bin", about["dtype"], "r"))
        columns: dict[str, Any] = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in COLUMNS}
        offsets = columns["offsets"]
        if not len(tokens) == offsets[-1] == about["tokens"]:
            return None
        if any(len(column) != len(offsets) - (name != "offsets") for name, column in columns.items()):
            return None
        empty = np.empty(0, np.int64)
        report = Report(**about["report"])
        return Corpus(path, folder.name, tokens, **columns, train=empty, held_out=empty, report=report)
    except (OSError, ValueError, KeyError, TypeError, EOFError, IndexError):
        return None


def _build(
    folder: Path, path: str, report: Report, rows: "Iterator[Encoded]", vocab_size: int, progress: Progress | None
) -> None:
    """Tokenise a source into `folder`, which appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".*"):  # by a process that was killed while it wrote
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(draft, path, report, rows, vocab_size, progress)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except OSError:
        if _load(folder, path) is None:  # else another process was faster, with the same content
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(
    folder: Path, path: str, report: Report, rows: "Iterator[Encoded]", vocab_size: int, progress: Progress | None
) -> None:
    dtype = np.dtype(token_type(vocab_size))
    lengths, prompts, sizes, hashes, total = [0], [], [], [], 0
    with open(folder / "tokens.bin", "wb") as handle:
        while chunk := list(islice(rows, CHUNK)):
            for found in chunk:
                handle.write(np.array(found.tokens, dtype).tobytes())
                lengths.append(len(found.tokens))
                prompts.append(found.prompt)
                sizes.append(found.bytes)
                hashes.append(found.hash)
                total += len(found.tokens)
            if progress:
                progress(path, len(sizes), total)
        _flush(handle)
    if not sizes:
        skipped = f" (left out {report.skipped} broken lines, as {report.examples[0]})" if report.skipped else ""
        raise DataError(f"{path}: no text in it{skipped}; give a source that holds some")
    columns = (
        np.cumsum(lengths, dtype="<i8"),
        np.array(prompts, "<i8"),
        np.array(sizes, "<i8"),
        np.array(hashes, "<u8"),
    )
    for name, column in zip(COLUMNS, columns, strict=True):
        with open(folder / f"{name}.npy", "wb") as handle:
            np.save(handle, column)
            _flush(handle)
    with open(folder / "about.json", "w") as handle:
        json.dump({"dtype": dtype.str, "tokens": total, "report": asdict(report)}, handle)
        _flush(handle)


def token_type(vocab_size: int) -> str:
    """The smallest kind of integers that holds every token."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def _flush(handle) -> None:
    """To the disk itself, so that no power cut leaves a complete folder with incomplete files."""
    handle.flush()
    os.fsync(handle.fileno())


class _Part(NamedTuple):
    """Text to tokenise, and the special tokens around it."""

    before: list[int]
    text: str
    after: list[int]
    context: bool = False  # a prompt: read, never scored
    continued: bool = False  # goes on with the text before it


class Encoded(NamedTuple):
    """A tokenised document; the fields are a corpus's columns."""

    tokens: list[int]
    prompt: int
    bytes: int
    hash: int


def _units(found: Iterable[Document], tokenizer: AnyTokenizer) -> Iterator[list[_Part]]:
    """Each document as the parts it is tokenised in; a long text becomes several documents, the last with the end.

    Raises:
        DataError: a conversation, and the tokenizer has no tokens for its roles.
    """
    end = [tokenizer.end_id]
    for document in found:
        if isinstance(document, Section):
            yield [_Part([], str(document), end if document.last else [], continued=not document.first)]
        elif isinstance(document, str):
            *first, last = sections(document)
            yield from ([_Part([], text, [], continued=i > 0)] for i, text in enumerate(first))
            yield [_Part([], last, end, continued=bool(first))]
        elif isinstance(document, Pair):
            continued = isinstance(document.prompt, str)
            yield [*_prompt(document.prompt, tokenizer), _Part([], document.response, end, continued=continued)]
        else:
            last = len(document) - 1
            yield [
                _Part([_role(role, tokenizer)], content, end if role == "assistant" or index == last else [])
                for index, (role, content) in enumerate(document)
            ]


def _prompt(prompt: str | Chat, tokenizer: AnyTokenizer) -> list[_Part]:
    if isinstance(prompt, str):
        return [_Part([], prompt, [], context=True)]
    turns = [_Part([_role(role, tokenizer)], content, [], context=True) for role, content in prompt]
    return [*turns, _Part([_role("assistant", tokenizer)], "", [], context=True)]


def _role(role: str, tokenizer: AnyTokenizer) -> int:
    found = tokenizer.special_id(f"<|{role}|>")
    if found is None:
        raise DataError(
            "the data holds conversations, but this model's tokenizer has no tokens for their roles; train on plain "
            "text, or tune with the method answers, which uses the model's chat template"
        )
    return found


def _chunks(units: Iterator[list[_Part]]) -> Iterator[list[list[_Part]]]:
    while chunk := list(islice(units, CHUNK)):
        yield chunk


@dataclass(frozen=True)
class Plain:
    """Whole documents; of a pair the prompt is context. A text that is too long becomes several."""

    @property
    def key(self) -> str:
        """The length at which a text is cut."""
        return str(LONGEST)

    def __call__(self, found: Iterable[Document], tokenizer: AnyTokenizer) -> Iterator[Encoded]:
        """Each document as a corpus holds it."""
        for chunk in _chunks(_units(found, tokenizer)):
            yield from _encoded(chunk, tokenizer)


def digest(texts: Iterable[str]) -> int:
    """64 bits of a document's text."""
    return int.from_bytes(hashlib.blake2b(b"\0".join(map(str.encode, texts)), digest_size=8).digest(), "little")


def _encoded(units: list[list[_Part]], tokenizer: AnyTokenizer) -> Iterator[Encoded]:
    encoded = {
        how: iter(tokenizer.encode_batch([p.text for unit in units for p in unit if p.continued == how], continued=how))
        for how in (False, True)
    }
    for unit in units:
        tokens: list[int] = []
        prompt = size = 0
        for part in unit:
            tokens += part.before + next(encoded[part.continued]) + part.after
            if part.context:
                prompt = len(tokens)
            else:
                size += len(part.text.encode())
        yield Encoded(tokens, prompt, size, digest(part.text for part in unit))
