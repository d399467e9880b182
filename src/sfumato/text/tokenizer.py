"""The tokenizer: byte-level BPE whose special tokens no text can spell."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from pathlib import Path
from typing import Any, ClassVar

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from sfumato.text.interface import AnyTokenizer, SpecialIds

SPECIAL = ("<|mask|>", "<|end|>", "<|pad|>", "<|start|>", "<|system|>", "<|user|>", "<|assistant|>")  # ids 0, 1, ...
SMALLEST_VOCABULARY = len(SPECIAL) + 256
FILE = "tokenizer.json"

# Merges happen inside these pieces only: an English contraction's end, a word (marks belong to it, or Hindi and Thai
# would fall apart), one digit, a run of punctuation and symbols, line ends, other space. A special token's text is
# three such pieces ("<|", "mask", "|>"), so no merge can ever spell one.
_PIECES = (
    r"(?i:['’](?:[sdmt]|ll|re|ve))(?![\p{L}\p{M}])| ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_REFUSED = re.compile("[\0\ud800-\udfff]")


class TokenizerError(ValueError):
    """A tokenizer file that cannot be used; the message is one line."""


def check_text(text: str, what: str = "text") -> None:
    """Refuse what no clean text holds and UTF-8 or C strings cannot carry.

    Args:
        text: any string.
        what: how the error message calls it.

    Raises:
        ValueError: at the first NUL or lone surrogate, naming its position.
    """
    if found := _REFUSED.search(text):
        kind = "a NUL character" if found[0] == "\0" else f"a lone surrogate (U+{ord(found[0]):04X})"
        raise ValueError(f"{what} holds {kind} at position {found.start()} (the first character is 0): remove it")


class Tokenizer:
    """Text to token ids and back, byte-exact for any Unicode text.

    Special tokens have the fixed ids of `SPECIAL` and exist as ids only: text that looks like one is encoded as the
    ordinary characters it is made of.

    Attributes:
        vocab_size: number of ids, special tokens included.
        fingerprint: SHA-256 of the JSON, in hex; equal fingerprints mean equal tokenizers.
    """

    mask_id: int = 0
    end_id: int = 1
    pad_id: int = 2
    start_id: int = 3
    begin: tuple[int, ...] = (start_id,)
    spaced: bool = False
    roles: ClassVar[dict[str, int]] = {"system": 4, "user": 5, "assistant": 6}

    def __init__(self, text: str, where: str = "tokenizer") -> None:
        """Build from the content of a `tokenizer.json`; `where` names it in errors (`TokenizerError`)."""
        try:
            content = json.loads(text)
            # Other programs find the special tokens under "added_tokens"; here nobody shall look for them in text.
            self._backend = tokenizers.Tokenizer.from_str(json.dumps({**content, "added_tokens": []}))
        except Exception as error:  # `tokenizers` raises bare Exception
            reason = str(error).partition("\n")[0]
            raise TokenizerError(f"{where}: not a tokenizer: {reason}; restore the file or train a new one") from None
        vocabulary = self._backend.get_vocab()
        if wrong := _mismatch(self._backend, vocabulary):
            raise TokenizerError(f"{where}: not a Sfumato tokenizer: {wrong}; train one with `sfumato tokenizer train`")
        self._json = text
        self._bytes = [b""] * len(vocabulary)
        for token, token_id in vocabulary.items():
            if token_id >= len(SPECIAL):
                self._bytes[token_id] = bytes(BYTE_OF[letter] for letter in token)
        self.vocab_size = len(vocabulary)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, progress: bool = False) -> "Tokenizer":
        """Learn the merges from texts; the same texts give the same tokenizer.

        Args:
            texts: documents, read once.
            vocab_size: ids to make, special tokens included; fewer where the texts hold no further pair that occurs
                twice (see the attribute `vocab_size`).
            progress: show a progress bar on standard error.

        Raises:
            ValueError: `vocab_size` below `SMALLEST_VOCABULARY`, or a text that `check_text` refuses.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(
                f"vocab_size must be at least {SMALLEST_VOCABULARY} "
                f"(256 bytes and {len(SPECIAL)} special tokens), got {vocab_size}"
            )
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL),
            initial_alphabet=list(BYTE_OF),
            show_progress=progress,
        )
        backend = _untrained()
        backend.train_from_iterator(_checked(texts), trainer)
        return cls(backend.to_str())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a `tokenizer.json`, or the one in a folder.

        Raises:
            TokenizerError: the file is missing, unreadable, or not a tokenizer that `save` wrote.
        """
        file = _file(path)
        try:
            text = file.read_bytes().decode()
        except OSError as error:
            raise TokenizerError(f"{file}: cannot read the tokenizer: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{file}: not a tokenizer: byte {error.start} is not UTF-8") from None
        return cls(text, str(file))

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that `to_json` described."""
        return cls(text)

    def to_json(self) -> str:
        """The content of `tokenizer.json`, in the format of the `tokenizers` library."""
        return self._json

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` (to that file, or into an existing folder): all of it or nothing."""
        file = _file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with partial.open("wb") as out:
                out.write(self._json.encode())
                out.flush()
                os.fsync(out.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    @property
    def identity(self) -> str:
        """Whatever ids and bytes depend on: the fingerprint."""
        return self.fingerprint

    def encode(self, text: str, *, continued: bool = False) -> list[int]:
        """Token ids of a text, never a special one; the same whether or not it continues another.

        Raises:
            ValueError: the text holds a NUL or a lone surrogate.
        """
        check_text(text)
        # The batch call is the one that spends no time on character offsets.
        return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_batch(self, texts: Iterable[str], *, continued: bool = False) -> list[list[int]]:
        """`encode` for many texts, on all cores.

        Raises:
            ValueError: a text holds a NUL or a lone surrogate; the message counts texts from 0.
        """
        return [row.ids for row in self._backend.encode_batch_fast(list(_checked(texts)), add_special_tokens=False)]

    def encode_parts(self, rows: Iterable[Sequence[int | str]], *, continued: bool = False) -> list[list[int]]:
        """Rows made of special tokens (ids) and texts between them; neighbouring texts are one.

        Raises:
            ValueError: a text holds a NUL or a lone surrogate.
        """
        joined = [merged(row) for row in rows]
        encoded = iter(self.encode_batch(part for row in joined for part in row if isinstance(part, str)))
        return [
            [token for part in row for token in ([part] if isinstance(part, int) else next(encoded))] for row in joined
        ]

    def decode(self, ids: Iterable[int], *, continued: bool = False) -> str:
        """Text of token ids; special tokens vanish and bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for a special token.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        position = index(token_id)
        if not 0 <= position < self.vocab_size:
            raise ValueError(f"token id must be from 0 to {self.vocab_size - 1}, got {position}")
        return self._bytes[position]

    def first_bytes(self, token_id: int) -> bytes:
        """The bytes of a token where a text begins: the same as everywhere."""
        return self.token_bytes(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether it is one of `SPECIAL`."""
        return token_id < len(SPECIAL)

    def name_of(self, token_id: int) -> str:
        """The name of one of `SPECIAL`; ValueError for another token."""
        if not 0 <= token_id < len(SPECIAL):
            raise ValueError(f"token {token_id} is not among the special tokens, 0 to {len(SPECIAL) - 1}")
        return SPECIAL[token_id]

    def special_id(self, name: str) -> int | None:
        """The id of one of `SPECIAL`; None for another name."""
        return SPECIAL.index(name) if name in SPECIAL else None


def read_tokenizer(text: str, tokens: SpecialIds, *, vocab_size: int = 0, where: str = "tokenizer") -> AnyTokenizer:
    """The tokenizer of a model, ours or another.

    Args:
        text: content of its `tokenizer.json`.
        tokens: what its special ids mean.
        vocab_size: of the network, where that is more than the tokenizer's; the ids between stand for nothing.
        where: names it in errors.

    Raises:
        TokenizerError: it cannot be used.
    """
    from sfumato.text.foreign import ForeignTokenizer

    ours = (Tokenizer.mask_id, Tokenizer.end_id, Tokenizer.pad_id, Tokenizer.start_id)
    if (tokens.mask, tokens.end, tokens.pad, tokens.start) == ours or _is_ours(text):
        return Tokenizer(text, where)
    return ForeignTokenizer(text, tokens, vocab_size=vocab_size, where=where)


def merged(parts: Sequence[int | str]) -> list[int | str]:
    """The parts with neighbouring texts joined."""
    found: list[int | str] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


def _is_ours(text: str) -> bool:
    """Whether a tokenizer's special tokens are those of `SPECIAL`, in the first ids."""
    if SPECIAL[0] not in text:  # other tokenizers are large
        return False
    try:
        vocabulary = json.loads(text)["model"]["vocab"]
        return all(vocabulary.get(name) == token_id for token_id, name in enumerate(SPECIAL))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _byte_of() -> dict[str, int]:
    """The byte behind each letter of the byte-level alphabet: printable Latin-1 is itself, the rest follow from 256."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in sorted(printable)} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_of()


def _untrained() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _mismatch(backend: tokenizers.Tokenizer, vocabulary: dict[str, int]) -> str:
    """What keeps a loaded tokenizer from doing what `Tokenizer` promises; empty if nothing does."""
    for token_id, token in enumerate(SPECIAL):
        if vocabulary.get(token) != token_id:
            return f"expected {token} at id {token_id}, found it at {vocabulary.get(token, 'none')}"
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        return "its ids are not 0, 1, 2, ... without a gap"
    if not vocabulary.keys() >= BYTE_OF.keys():
        return "some of the 256 bytes have no token"
    if strange := set().union(*(vocabulary.keys() - SPECIAL)) - BYTE_OF.keys():
        return f"its tokens are not byte-level: {min(strange)!r}"
    found, expected = _parts(backend), _parts(_untrained())
    return next((f"its {part} differs" for part in expected if found.get(part) != expected[part]), "")


def _parts(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Everything that the JSON holds beside what training learns, on one level."""
    parts = json.loads(backend.to_str())
    model = parts.pop("model")
    return parts | {key: value for key, value in model.items() if key not in ("vocab", "merges")}


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        check_text(text, f"text {number}")
        yield text


def _file(path: str | os.PathLike[str]) -> Path:
    return Path(path) / FILE if Path(path).is_dir() else Path(path)
