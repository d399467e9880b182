"""Texts that were there before: the same, or nearly so. The first one stays.

Source: Broder 1997, "On the resemblance and containment of documents" (min-wise hashing); Lee et al. 2022 (2107.06499)
for what duplicates do to language models.
"""

import re
import zlib
from collections.abc import Iterable

from sfumato.data.cache import digest
from sfumato.data.care.seam import missing

PERMUTATIONS = 128
WORDS = 5
"""In a shingle."""
_WORD = re.compile(r"\w+")


class Exact:
    """The same words in the same places; the space between them does not count. Keeps 8 bytes a text."""

    name = "duplicate"

    def __init__(self, known: Iterable[str] = ()):
        """known: texts that count as if they had come before."""
        self._seen = {self._key(text) for text in known}

    def __call__(self, text: str) -> str:
        """Whether it was there before."""
        key = self._key(text)
        if key in self._seen:
            return "the same text came before"
        self._seen.add(key)
        return ""

    @staticmethod
    def _key(text: str) -> int:
        return digest([" ".join(text.split())])


class Near:
    """About the same words: an estimate of the Jaccard similarity of their shingles. Keeps about 1 kB a text."""

    name = "near duplicate"

    def __init__(self, threshold: float = 0.8, known: Iterable[str] = ()):
        """Start with nothing seen.

        Args:
            threshold: similarity from which on a text goes.
            known: texts that count as if they had come before.

        Raises:
            DataError: `datasketch` is not installed.
            ValueError: a threshold that is not between 0 and 1.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"near: expected a similarity between 0 and 1, got {threshold:g}; try 0.8")
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            raise missing("datasketch", "finding near duplicates") from None
        self.threshold = threshold
        # The permutations are those of seed 1, so that the same texts always give the same result.
        self._empty = MinHash(PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
        self._index = MinHashLSH(threshold, PERMUTATIONS)
        self._hashes = {}
        for text in known:
            self(text)

    def __call__(self, text: str) -> str:
        """How similar it is to one that came before, if it is too similar."""
        found = self._empty.copy()
        found.update_batch(list(shingles(text)))
        likest = max((found.jaccard(self._hashes[key]) for key in self._index.query(found)), default=0.0)
        if likest >= self.threshold:
            return f"similarity {likest:.2f} to one that came before"
        key = len(self._hashes)
        self._hashes[key] = found
        self._index.insert(key, found)
        return ""


def shingles(text: str) -> set[bytes]:
    """All runs of five words, case aside; of characters where a script has no spaces; or all of a shorter text."""
    pieces = _WORD.findall(text.casefold())
    joint = " "
    if pieces and sum(map(len, pieces)) > 20 * len(pieces):
        pieces, joint = [letter for piece in pieces for letter in piece], ""
    return {joint.join(pieces[i : i + WORDS]).encode() for i in range(max(1, len(pieces) - WORDS + 1))}
