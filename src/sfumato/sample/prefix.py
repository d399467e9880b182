"""Keys and values of finished text, kept for requests that begin alike: a system prompt, the conversation so far.

Only where the cache is exact: there what is kept depends on the tokens up to it and the size of a block, and on nothing
that comes later.

Source: Zheng et al. 2023 (SGLang, 2312.07104, RadixAttention), without the tree: requests are few and rows short.

Shape letters: P places kept, H key/value heads, E head width.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """The beginning of a row that is finished."""

    tokens: np.ndarray
    """int64, P of them."""
    size: int
    """Places a block; 1 in the causal layout."""
    keys: tuple[Tensor, ...]
    """Of each layer, (P, H, E)."""
    values: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(part.nbytes for part in (*self.keys, *self.values))

    def shared(self, tokens: np.ndarray, most: int) -> int:
        """How many leading tokens, in whole blocks and at most `most`, are the same."""
        upto = min(len(self.tokens), len(tokens), most)
        differ = np.flatnonzero(self.tokens[:upto] != tokens[:upto])
        return int(differ[0] if len(differ) else upto) // self.size * self.size


class PrefixStore:
    """The prefixes used last, up to a limit of memory."""

    def __init__(self, limit: int = 1 << 28):
        """limit: bytes of keys and values at most; 0 keeps nothing."""
        self.limit, self.reused = limit, 0
        self._kept: OrderedDict[int, Prefix] = OrderedDict()  # the one used last at the end
        self._bytes, self._next = 0, 0

    def find(self, tokens: Sequence[int], size: int, most: int) -> tuple[int, Prefix | None]:
        """How many of the leading tokens are kept, at most `most`, and by whom."""
        wanted, best, found = np.asarray(tokens, np.int64), 0, None
        for key, prefix in self._kept.items():
            if prefix.size == size and (shared := prefix.shared(wanted, most)) > best:
                best, found = shared, key
        if found is None:
            return 0, None
        self._kept.move_to_end(found)
        self.reused += best
        return best, self._kept[found]

    def covers(self, tokens: Sequence[int], size: int) -> bool:
        """Whether all of this is kept already, so that there is nothing to add."""
        wanted = np.asarray(tokens, np.int64)
        return any(p.size == size and p.shared(wanted, len(wanted)) == len(wanted) for p in self._kept.values())

    def put(self, prefix: Prefix) -> None:
        """Keep a prefix; those that it continues go, then those that were not used for longest."""
        if prefix.nbytes > self.limit:
            return
        for key, other in list(self._kept.items()):
            if other.size == prefix.size and prefix.shared(other.tokens, len(other.tokens)) == len(other.tokens):
                self._drop(key)
        self._kept[self._next] = prefix
        self._next += 1
        self._bytes += prefix.nbytes
        while self._bytes > self.limit:
            self._drop(next(iter(self._kept)))

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def _drop(self, key: int) -> None:
        self._bytes -= self._kept.pop(key).nbytes
