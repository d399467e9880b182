"""A deterministic automaton over tokens.

Many pairs of states are joined by the same set of tokens (all that may stand inside of a string, say), so an edge names
a set, and each distinct set is kept once: what is computed for a position is computed once a set.

Shape letters: S states (the last is behind the end of the text), E edges, G distinct sets of tokens, M members of all
sets, V vocabulary.
"""

from collections import deque
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

_MOST_STEPS = 100_000
FAR = 1 << 30


@dataclass(frozen=True, eq=False)
class Automaton:
    """Tokens from state to state; state 0 is the beginning."""

    source_E: np.ndarray
    """int64, ascending."""
    target_E: np.ndarray
    set_E: np.ndarray
    """int64, the set of tokens that lead from source to target."""
    begin_G: np.ndarray
    """int64 (G + 1), where each set begins among the members."""
    token_M: np.ndarray
    """int64, ascending within each set."""
    distance_S: np.ndarray
    """int64, the fewest tokens until the text may end."""
    vocab_size: int
    end_id: int

    _steps: dict[tuple[int, int], int] = field(default_factory=dict, init=False)
    """What `follow` has found, for the next time."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: nothing that can be computed again."""
        return Automaton, tuple(getattr(self, f.name) for f in fields(self) if f.init)

    @property
    def states(self) -> int:
        """S."""
        return len(self.distance_S)

    @cached_property
    def begin_S(self) -> np.ndarray:
        """int64 (S + 1), where the edges of each state begin."""
        return np.searchsorted(self.source_E, np.arange(self.states + 1))

    @cached_property
    def by_source(self) -> "Order":
        """The edges by source, as they stand."""
        return Order.of(self.source_E)

    @cached_property
    def members(self) -> "Order":
        """The members by set, as they stand."""
        return Order.of(self.set_M)

    @cached_property
    def by_target(self) -> "Order":
        """The edges by target."""
        return Order.of(self.target_E)

    @cached_property
    def by_set(self) -> "Order":
        """The edges by set."""
        return Order.of(self.set_E)

    @cached_property
    def set_M(self) -> np.ndarray:
        """int64, whose member each is."""
        return np.repeat(np.arange(len(self.begin_G) - 1), np.diff(self.begin_G))

    @cached_property
    def by_token(self) -> "Order":
        """The members by token."""
        return Order.of(self.token_M)

    def _sets_with(self, token: int) -> np.ndarray:
        """int64, the sets that hold a token."""
        order = self.by_token
        at = np.searchsorted(order.key, token)
        if at == len(order.key) or order.key[at] != token:
            return np.zeros(0, np.int64)
        end = order.begin[at + 1] if at + 1 < len(order.begin) else len(order.order)
        return self.set_M[order.order[order.begin[at] : end]]

    def follow(self, state: int, token: int) -> int | None:
        """The state after a token; None where the token is not allowed."""
        key = (state, token)
        after = self._steps.get(key)
        if after is None:
            edges = slice(self.begin_S[state], self.begin_S[state + 1])
            found = np.nonzero(np.isin(self.set_E[edges], self._sets_with(token)))[0]
            if not len(found):
                return None
            if len(self._steps) > _MOST_STEPS:
                self._steps.clear()
            after = self._steps[key] = int(self.target_E[edges][found[0]])
        return after

    def choices(self, state: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens allowed in a state, and the state after each."""
        edges = range(self.begin_S[state], self.begin_S[state + 1])
        tokens = [self.token_M[self.begin_G[g] : self.begin_G[g + 1]] for g in self.set_E[edges]]
        return np.concatenate(tokens), np.repeat(self.target_E[edges], [len(part) for part in tokens])


@dataclass(frozen=True)
class Order:
    """Things sorted by a key, for sums and maxima over those of equal key."""

    order: np.ndarray
    begin: np.ndarray
    """Where each key that occurs begins."""
    size: np.ndarray
    """How many there are of it."""
    key: np.ndarray
    """The keys that occur, ascending."""

    @classmethod
    def of(cls, keys: np.ndarray) -> "Order":
        """The order of these keys."""
        order = np.argsort(keys, kind="stable")
        key, begin = np.unique(keys[order], return_index=True)
        return cls(order, begin, np.diff(np.append(begin, len(keys))), key)


def from_edges(
    source: np.ndarray, token: np.ndarray, target: np.ndarray, accepting_S: np.ndarray, *, vocab_size: int, end_id: int
) -> Automaton:
    """The automaton of single-token edges (int64, all of the same length); a state for the end is added."""
    last, ends = len(accepting_S), np.append(np.nonzero(accepting_S)[0], len(accepting_S))
    source = np.concatenate((source, ends))
    token = np.concatenate((token, np.full(len(ends), end_id)))
    target = np.concatenate((target, np.full(len(ends), last)))
    order = np.lexsort((token, target, source))
    source, token, target = source[order], token[order], target[order]
    first = np.append(True, (np.diff(source) != 0) | (np.diff(target) != 0))
    begin_E = np.nonzero(first)[0]
    set_E, begin_G, token_M = _distinct_sets(token, begin_E, vocab_size)
    source_E, target_E = source[begin_E], target[begin_E]
    distance_S = _distances(source_E, target_E, accepting_S)
    return Automaton(source_E, target_E, set_E, begin_G, token_M, distance_S, vocab_size, end_id)


def _distinct_sets(
    token: np.ndarray, begin_E: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each edge its set of tokens, and the distinct sets; `token` is sorted within each edge."""
    size_E = np.diff(np.append(begin_E, len(token)))
    marks = np.random.default_rng(0).integers(0, 2**63, (2, vocab_size), dtype=np.uint64)
    sums = [np.add.reduceat(mark_V[token], begin_E) for mark_V in marks]
    keys = np.stack((size_E.astype(np.uint64), *sums), axis=1)  # of 128 random bits: equal sums mean equal sets
    _, first_G, set_E = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    set_E = set_E.reshape(-1)
    size_G = size_E[first_G]
    begin_G = np.append(0, np.cumsum(size_G))
    at_M = np.arange(begin_G[-1]) - np.repeat(begin_G[:-1] - begin_E[first_G], size_G)
    return set_E, begin_G, token[at_M]


def _distances(source_E: np.ndarray, target_E: np.ndarray, accepting_S: np.ndarray) -> np.ndarray:
    """The fewest tokens to an accepting state, breadth first from the end."""
    states = len(accepting_S) + 1
    order = np.argsort(target_E, kind="stable")
    begin_S = np.searchsorted(target_E[order], np.arange(states + 1))
    distance_S = np.full(states, FAR, np.int64)
    ends = np.append(np.nonzero(accepting_S)[0], states - 1)
    distance_S[ends] = 0
    queue = deque(ends.tolist())
    while queue:
        state = queue.popleft()
        for before in source_E[order[begin_S[state] : begin_S[state + 1]]]:
            if distance_S[before] == FAR:
                distance_S[before] = distance_S[state] + 1
                queue.append(before)
    return distance_S
