"""Tokenizers that other models come with: byte-level BPE, WordPiece, Unigram, and BPE that falls back to bytes.

The library that wrote their `tokenizer.json` encodes. What is ours is that no text can spell a special token: their
names are replaced by some with a NUL in front, which no text holds, so that even a vocabulary that has `<s>` among its
pieces takes the characters one by one.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from operator import index
from typing import Any

import tokenizers

from sfumato.text.interface import SpecialIds
from sfumato.text.surgery import (
    SECRET,
    hidden,
    parts_of,
    prefixes,
    special_names,
    unknown_id,
    vocabulary_of,
    without_prefix,
)
from sfumato.text.tokenizer import BYTE_OF, TokenizerError, check_text, merged

_SPACE = "▁"
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_UNKNOWN = "\ufffd".encode()
_ANCHOR = "x"  # a token before another, where what the first one becomes is of no interest


class ForeignTokenizer:
    """The interface of `Tokenizer` (see `AnyTokenizer`) around a tokenizer of the `tokenizers` library.

    The bytes of a token are what it adds to the text behind it: exact for byte-level BPE and for byte fallback. Where
    words are pieces (WordPiece, Unigram, BPE with "▁") a piece that begins a word brings a space along, which falls
    away at the beginning of a text. A tokenizer that lowers case or drops accents (BERT) cannot give back what it read:
    `decode(encode(text))` is then what the library makes of it, but for the unknown token, which is U+FFFD.

    Attributes:
        vocab_size: number of ids, with those of the network that stand for nothing.
        fingerprint: SHA-256 of the JSON, in hex.
    """

    def __init__(self, text: str, tokens: SpecialIds, *, vocab_size: int = 0, where: str = "tokenizer"):
        """Build from the content of a `tokenizer.json`.

        Args:
            text: the content.
            tokens: which ids are the mask, the end, the padding and the start.
            vocab_size: of the network; 0 = that of the tokenizer.
            where: names it in errors.

        Raises:
            TokenizerError: not JSON, of a kind whose tokens cannot be told apart as text, or a special id beyond it.
        """
        try:
            self._content = json.loads(text)
            vocabulary = vocabulary_of(self._content)
            self._names = special_names(self._content, vocabulary, tokens)
            self._content = hidden(self._content, self._names)
            self._backend = tokenizers.Tokenizer.from_str(json.dumps(self._content))
        except Exception as error:  # `tokenizers` raises bare Exception
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise TokenizerError(f"{where}: not a tokenizer: {reason}; restore the file") from None
        self.mask_id, self.end_id, self.pad_id = tokens.mask, tokens.end, tokens.pad
        self.begin = () if tokens.start is None else (tokens.start,)
        self._json, self._special_ids = text, frozenset({*self._names.values(), *self.begin, *_meaning(tokens)})
        size = 1 + max(vocabulary.values())
        self.vocab_size = max(size, vocab_size)
        if vocab_size and vocab_size < size:
            raise TokenizerError(
                f"{where}: its ids go up to {size - 1}, but the network has {vocab_size} tokens; restore the files"
            )
        if beyond := [token for token in self._special_ids if token >= self.vocab_size]:
            raise TokenizerError(f"{where}: the special id {beyond[0]} is beyond its {self.vocab_size} tokens")
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.identity = f"{self.fingerprint} {_meaning(tokens)} {self.begin} {self.vocab_size}"
        self._bytes = self._all_bytes(vocabulary, where)
        self.spaced = prefixes(self._content) or self._content["model"]["type"] == "WordPiece"

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: what it is made of."""
        return _rebuilt, (self._json, (self.mask_id, self.end_id, self.pad_id, self.begin), self.vocab_size)

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return self._json

    def encode(self, text: str, *, continued: bool = False) -> list[int]:
        """Token ids of a text, as the library has them; see `AnyTokenizer.encode`."""
        check_text(text)
        return self._encoder(continued).encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_batch(self, texts: Iterable[str], *, continued: bool = False) -> list[list[int]]:
        """`encode` for many texts, on all cores; an error counts the texts from 0."""
        return self._encoded(_checked(texts), continued)

    def encode_parts(self, rows: Iterable[Sequence[int | str]], *, continued: bool = False) -> list[list[int]]:
        """Special tokens and the texts between them, as the library tokenises the whole.

        Raises:
            ValueError: an id that is no special token of the vocabulary, or a text that `check_text` refuses.
        """
        return self._encoded([self._spelled(merged(row)) for row in rows], continued)

    def decode(self, ids: Iterable[int], *, continued: bool = False) -> str:
        """Text of token ids; see `AnyTokenizer.decode`."""
        raw = b"".join(map(self.token_bytes, ids))
        return (raw.removeprefix(b" ") if self.spaced and not continued else raw).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text; nothing for special tokens and ids that the tokenizer does not have."""
        position = index(token_id)
        if not 0 <= position < self.vocab_size:
            raise ValueError(f"token id must be from 0 to {self.vocab_size - 1}, got {position}")
        return self._bytes.get(position, b"")

    def first_bytes(self, token_id: int) -> bytes:
        """What a token adds where a text begins."""
        raw = self.token_bytes(token_id)
        return raw.removeprefix(b" ") if self.spaced else raw

    def is_special(self, token_id: int) -> bool:
        """Whether a token stands for no text that could be written: special, unknown, or nothing at all."""
        return token_id in self._special_ids or token_id not in self._bytes

    def special_id(self, name: str) -> int | None:
        """The id of the special token with this name."""
        return self._names.get(name)

    def name_of(self, token_id: int) -> str:
        """The name of a special token; ValueError where it has none."""
        if token_id not in self._name_of:
            raise ValueError(f"token {token_id} is not among the tokenizer's special tokens")
        return self._name_of[token_id]

    @cached_property
    def _name_of(self) -> dict[int, str]:
        return {token_id: name for name, token_id in self._names.items()}

    def _encoder(self, continued: bool) -> tokenizers.Tokenizer:
        return self._continuing if continued else self._backend

    @cached_property
    def _continuing(self) -> tokenizers.Tokenizer:
        """The one that puts no space before a text."""
        if not prefixes(self._content):
            return self._backend
        return tokenizers.Tokenizer.from_str(json.dumps(without_prefix(self._content)))

    def _encoded(self, texts: Iterable[str], continued: bool) -> list[list[int]]:
        rows = self._encoder(continued).encode_batch_fast(list(texts), add_special_tokens=False)
        return [row.ids for row in rows]

    def _spelled(self, parts: Sequence[int | str]) -> str:
        """The parts as one text in which special tokens have their secret names."""
        for part in parts:
            if isinstance(part, str):
                check_text(part)
        return "".join(part if isinstance(part, str) else SECRET + self.name_of(part) for part in parts)

    def _all_bytes(self, vocabulary: Mapping[str, int], where: str) -> dict[int, bytes]:
        """The bytes of every token that stands for text."""
        spell = _speller(self._content, self._backend, where)
        written = {entry["content"] for entry in self._content["added_tokens"]}
        found = {
            token_id: token.encode() if token in written else spell(token)
            for token, token_id in vocabulary.items()
            if token not in self._names
        }
        unknown = unknown_id(self._content, vocabulary)
        if unknown is not None and unknown not in {self.mask_id, self.end_id, self.pad_id, *self.begin}:
            found[unknown] = _UNKNOWN
            self._special_ids |= {unknown}
        return found


class _Ids:
    """The special ids of a tokenizer that travels."""

    def __init__(self, mask: int, end: int, pad: int, begin: Sequence[int]):
        self.mask, self.end, self.pad, self.start = mask, end, pad, (*begin, None)[0]


@lru_cache(maxsize=4)  # a grammar brings its tokenizer along to each request
def _rebuilt(text: str, ids: tuple[int, int, int, Sequence[int]], vocab_size: int) -> ForeignTokenizer:
    return ForeignTokenizer(text, _Ids(*ids), vocab_size=vocab_size)


def _meaning(tokens: SpecialIds) -> tuple[int, int, int]:
    return tokens.mask, tokens.end, tokens.pad


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        check_text(text, f"text {number}")
        yield text


def _speller(content: Mapping[str, Any], backend: tokenizers.Tokenizer, where: str) -> Callable[[str], bytes]:
    """From a token's name in the vocabulary to its bytes."""
    steps = [step for name in ("pre_tokenizer", "decoder") for step in parts_of(content, name)]
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level
    if content["model"]["type"] == "WordPiece":
        decoder = backend.decoder or tokenizers.decoders.WordPiece()
        return lambda token: decoder.decode([_ANCHOR, token]).removeprefix(_ANCHOR).encode()
    if "Metaspace" in kinds or any(step.get("type") == "Replace" and step.get("content") == " " for step in steps):
        falls_back = content["model"].get("byte_fallback") or "ByteFallback" in kinds
        return lambda token: _word_piece(token, falls_back)
    told = f"{content['model'].get('type')} with the decoder {(content.get('decoder') or {}).get('type')}"
    raise TokenizerError(
        f"{where}: a kind whose tokens have no text of their own ({told}); expected byte-level BPE, WordPiece, or "
        "pieces with ▁ for a space"
    )


def _byte_level(token: str) -> bytes:
    if all(letter in BYTE_OF for letter in token):
        return bytes(BYTE_OF[letter] for letter in token)
    return token.encode()


def _word_piece(token: str, falls_back: bool) -> bytes:
    if falls_back and (byte := _BYTE.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    return token.replace(_SPACE, " ").encode()
