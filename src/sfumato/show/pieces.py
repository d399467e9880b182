"""Tokens as pieces of text: half a character is never shown, and nothing that steers a terminal gets through."""

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence

HAZE = "░"

_CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of a UTF-8 character after its first
_HARMLESS = str.maketrans(
    {
        **{code: chr(0x2400 + code) for code in range(0x20) if code != 0x0A},  # ␛ stands for an escape
        **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
        **{"\x7f": "␡", "\t": "    ", "\r": "", "\u2028": "\n", "\u2029": "\n"},
    }
)


def harmless(text: str) -> str:
    """The text without control characters: a terminal shows it and does nothing else."""
    return text.translate(_HARMLESS)


def pieces(tokens: Sequence[int], known: Sequence[bool], token_bytes: Callable[[int], bytes]) -> list[str]:
    """What each token adds to the text, as far as its neighbours are known.

    A character that is spread over several tokens appears with the last of them; until all of them are known, its
    known part is one block of haze. Bytes that can belong to no character are U+FFFD, as in the tokenizer's `decode`.

    Args:
        tokens: ids; what stands at unknown places is not read.
        known: for each token, whether it is decided.
        token_bytes: the bytes of an id; none for a special token.

    Returns:
        A string for each token, empty for an unknown one. Where all are known, together they are the (harmless) text.
    """
    decoder = getincrementaldecoder("utf-8")("replace")
    result: list[str] = []
    after_gap = False  # what comes next may be the end of a character that began with an unknown token
    for token, is_known in zip(tokens, known, strict=True):
        if not is_known:
            if decoder.getstate()[0]:
                result[-1] += HAZE
            decoder.reset()
            result.append("")
            after_gap = True
            continue
        piece, text = token_bytes(token), ""
        if after_gap and piece:
            whole = piece.lstrip(_CONTINUATION)
            text, after_gap, piece = HAZE * (whole != piece), not whole, whole
        result.append(text + harmless(decoder.decode(piece)))
    if result and known[-1]:
        result[-1] += decoder.decode(b"", final=True)
    return result
