"""`sfumato tokenizer train`: learn a tokenizer from texts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from sfumato.cli import choose
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, DataConfig, Source, argument, option, parse

SHOWN = 1 << 20  # characters on which the finished tokenizer is measured


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    files: tuple[str, ...] = argument("texts to learn from: files, folders or hf:NAME")
    out: str = option("tokenizer.json", "where to write it: a file, or an existing folder")
    vocab_size: int = option(4096, "tokens to make, special tokens included", at_least=263)
    field: str = option("text", "the key of a record that holds the text")
    on_error: str = option("stop", "what to do at a broken line", ("stop", "skip"))
    json: bool = option(False, "write the result as JSON, and nothing else, to standard output")


def run(words: list[str], out: TextIO) -> None:
    """Dispatch to the commands about tokenizers."""
    commands = {"train": "learn a byte-level BPE tokenizer from texts"}
    _, words = choose(words, commands, "sfumato tokenizer", "Make tokenizers.")
    _train(words, out)


def _train(words: list[str], out: TextIO) -> None:
    about = "Learn a byte-level BPE tokenizer; the same texts give the same one."
    options = parse(Options, words, "sfumato tokenizer train", about)
    path = Path(options.out)

    from sfumato.data.sources import texts
    from sfumato.text.tokenizer import FILE, Tokenizer

    sources = tuple(Source(name, field=options.field) for name in options.files)
    with progress() as bar:
        bar.begin("reading texts and learning")
        seen = _Seen(bar)
        tokenizer = Tokenizer.train(
            seen.through(texts(DataConfig(sources, on_error=options.on_error))), options.vocab_size
        )
        if not seen.documents:
            raise ConfigError(f"{', '.join(options.files)}: no text in it; give files that hold some")
        tokenizer.save(path)
    size = sum(len(text.encode()) for text in seen.first)
    result = {
        "out": str(path / FILE if path.is_dir() else path),
        "tokens": tokenizer.vocab_size,
        "documents": seen.documents,
        "characters": seen.characters,
        "bytes_per_token": round(size / sum(map(len, tokenizer.encode_batch(seen.first))), 3),
        "sha256": tokenizer.fingerprint,
    }
    if options.json:
        import json

        print(json.dumps(result), file=out)
        return
    fewer = (
        "" if tokenizer.vocab_size == options.vocab_size else f" (the texts hold no more; asked {options.vocab_size})"
    )
    print(
        f"{result['out']}: {tokenizer.vocab_size} tokens{fewer}, {result['bytes_per_token']} bytes a token, "
        f"from {seen.documents} documents",
        file=out,
    )


@dataclass
class _Seen:
    """What passed by on the way to the tokenizer."""

    bar: Bar
    documents: int = 0
    characters: int = 0
    first: list[str] = field(default_factory=list)

    def through(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            if self.characters < SHOWN:
                self.first.append(text[: SHOWN - self.characters])
            self.documents += 1
            self.characters += len(text)
            if self.documents % 1000 == 0:
                self.bar.show(self.documents, "documents")
            yield text
