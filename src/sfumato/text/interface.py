"""What every tokenizer can do, ours and those that come with other models."""

from collections.abc import Iterable, Sequence
from typing import Protocol


class SpecialIds(Protocol):
    """Token ids with a meaning (`model.bundle.SpecialTokens`)."""

    @property
    def mask(self) -> int:
        """The mask."""
        ...

    @property
    def end(self) -> int:
        """The end of a text."""
        ...

    @property
    def pad(self) -> int:
        """Padding."""
        ...

    @property
    def start(self) -> int | None:
        """What a text begins with; None = nothing."""
        ...


class AnyTokenizer(Protocol):
    """Text to token ids and back. No text is ever encoded as a special token, not even one that spells it."""

    @property
    def mask_id(self) -> int:
        """The mask."""
        ...

    @property
    def end_id(self) -> int:
        """The end of a text."""
        ...

    @property
    def pad_id(self) -> int:
        """Padding."""
        ...

    @property
    def begin(self) -> Sequence[int]:
        """Ids that open a text; may be none."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON, in hex."""
        ...

    @property
    def identity(self) -> str:
        """Whatever ids and bytes depend on: equal identities mean equal behaviour."""
        ...

    @property
    def spaced(self) -> bool:
        """Whether the token that begins a word brings a space along, at the beginning of a text too."""
        ...

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        ...

    def encode(self, text: str, *, continued: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: any; ValueError at a NUL or a lone surrogate.
            continued: the text goes on where other text ends: no space is put before it. Makes a difference only to
                tokenizers that begin every text with a space.
        """
        ...

    def encode_batch(self, texts: Iterable[str], *, continued: bool = False) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        ...

    def encode_parts(self, rows: Iterable[Sequence[int | str]], *, continued: bool = False) -> list[list[int]]:
        """Rows made of special tokens (ids) and text (strings) between them; neighbouring texts are one."""
        ...

    def decode(self, ids: Iterable[int], *, continued: bool = False) -> str:
        """Text of token ids; special tokens vanish, and bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: ValueError at one outside the vocabulary.
            continued: the text goes on where other text ends, so a space at its beginning stays.
        """
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; none for a special token. ValueError outside the vocabulary."""
        ...

    def first_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds where a text begins: without the space that some begin every text with."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether a token stands for no text that could be written."""
        ...

    def name_of(self, token_id: int) -> str:
        """The name of a special token; ValueError where it has none."""
        ...

    def special_id(self, name: str) -> int | None:
        """The id of the special token with this name, such as `<|im_start|>`; None if there is none."""
        ...
