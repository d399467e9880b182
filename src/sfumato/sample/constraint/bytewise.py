"""A regular language -> a deterministic automaton over the bytes of UTF-8, within a fixed budget of work.

Thompson's construction and the subset construction (Rabin and Scott 1959). Both count what they do and give up with one
line: expressions come from users, and a short one can ask for exponentially many states.
"""

from dataclasses import dataclass, field

import numpy as np

from sfumato.sample.constraint.language import Alt, Chars, Language, Repeat, Seq

MOST_PARTS = 100_000  # states of the nondeterministic automaton
MOST_STATES = 20_000
MOST_WORK = 3_000_000  # members looked at while subsets are built, about a second
DEAD = -1
_EMPTY = Seq()


class TooLarge(ValueError):
    """A language that would take too many states."""


@dataclass(frozen=True)
class ByteAutomaton:
    """State 0 is where texts begin."""

    next_SB: np.ndarray
    """int32 (S, 256), the next state by byte; -1 = no text of the language goes on so."""
    accepting_S: np.ndarray
    """bool, where a text may end."""

    def takes(self, text: bytes) -> bool:
        """Whether a text belongs to the language."""
        state = 0
        for byte in text:
            state = int(self.next_SB[state, byte])
            if state < 0:
                return False
        return bool(self.accepting_S[state])


def determinised(language: Language) -> ByteAutomaton | None:
    """The automaton, or None when no text at all belongs to the language.

    Raises:
        TooLarge: beyond the budget.
    """
    parts = _Parts()
    try:
        start = parts.add(language, parts.final)
    except RecursionError:
        raise TooLarge("nested too deeply") from None
    return _Subsets(parts).build(start)


@dataclass
class _Parts:
    """A nondeterministic automaton, built from its end: each part knows what follows it. State 0 is the end."""

    moves: list[list[tuple[int, int, int]]] = field(default_factory=lambda: [[]])
    """Of each state: first byte, last byte, next state."""
    jumps: list[list[int]] = field(default_factory=lambda: [[]])
    """States that are reached without a byte."""
    known: dict[tuple[int, int], int] = field(default_factory=dict)
    final = 0

    def state(self, jumps: list[int] | None = None) -> int:
        if len(self.moves) >= MOST_PARTS:
            raise TooLarge(f"more than {MOST_PARTS} parts")
        self.moves.append([])
        self.jumps.append(jumps or [])
        return len(self.moves) - 1

    def add(self, language: Language, after: int) -> int:
        """The state from which the language leads to `after`; a part that leads there already is used again."""
        key = (id(language), after)
        if key not in self.known:
            self.known[key] = self._add(language, after)
        return self.known[key]

    def _add(self, language: Language, after: int) -> int:
        if isinstance(language, Chars):
            return self._chars(language, after)
        if isinstance(language, Seq):
            for part in reversed(language.parts):
                after = self.add(part, after)
            return after
        if isinstance(language, Alt):
            return self.state([self.add(part, after) for part in language.parts])
        return self._repeat(language, after)

    def _repeat(self, language: Repeat, after: int) -> int:
        part, between = language.part, language.between or _EMPTY
        least = max(language.least, 1)
        if language.most == 0:
            return after
        begin = after
        if language.most is None:
            behind = self.state()
            loop = self.state()
            self.jumps[loop].append(self.add(part, behind))
            self.jumps[behind] += [self.add(between, loop), after]
            begin = behind
        else:
            for _ in range(language.most - least):
                begin = self.state([self.add(between, self.add(part, begin)), after])
        for i in range(least):
            before, begin = begin, self.add(part, begin if i == 0 else self.add(between, begin))
            if begin == before:  # nothing but the empty text
                break
        return begin if language.least else self.state([begin, after])

    def _chars(self, one: Chars, after: int) -> int:
        begin, tails = self.state(), {}
        for low, high in one.ranges:
            for first, *rest in _utf8(low, high):
                target, key = after, ()
                for low_byte, high_byte in reversed(rest):  # characters of the same last bytes share their states
                    key = (*key, (low_byte, high_byte))
                    if key not in tails:
                        tails[key] = self.state()
                        self.moves[tails[key]].append((low_byte, high_byte, target))
                    target = tails[key]
                self.moves[begin].append((*first, target))
        return begin


class _Subsets:
    """The subset construction; the unit of input is a class of bytes that no state tells apart."""

    def __init__(self, parts: _Parts):
        self.parts, self.work = parts, 0
        edges = sorted({0, 256, *(edge for moves in parts.moves for a, b, _ in moves for edge in (a, b + 1))})
        self.count = len(edges) - 1
        self.class_B = np.repeat(np.arange(self.count), np.diff(edges))
        class_of = {edge: i for i, edge in enumerate(edges)}
        self.moves = [[(class_of[a], class_of[b + 1], target) for a, b, target in moves] for moves in parts.moves]
        self.closures: dict[int, frozenset[int]] = {}

    def build(self, start: int) -> ByteAutomaton | None:
        first = self._closure(start)
        numbers, rows, queue = {first: 0}, [], [first]
        for subset in queue:  # which grows meanwhile
            row = [DEAD] * self.count
            for place, members in self._targets(subset).items():
                after = frozenset(members)
                if after not in numbers:
                    if len(numbers) >= MOST_STATES:
                        raise TooLarge(f"more than {MOST_STATES} states")
                    numbers[after] = len(numbers)
                    queue.append(after)
                row[place] = numbers[after]
            rows.append(row)
        accepting_S = np.array([self.parts.final in subset for subset in queue])
        return _trimmed(np.array(rows, np.int32)[:, self.class_B], accepting_S)

    def _targets(self, subset: frozenset[int]) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for member in subset:
            for low, high, target in self.moves[member]:
                after = self._closure(target)
                self._spend((high - low) * len(after))
                for place in range(low, high):
                    found.setdefault(place, set()).update(after)
        return found

    def _closure(self, state: int) -> frozenset[int]:
        """What is reached without a byte, and reads one or is the end."""
        known = self.closures.get(state)
        if known is None:
            seen, stack = {state}, [state]
            while stack:
                fresh = set(self.parts.jumps[stack.pop()]) - seen
                seen |= fresh
                stack += fresh
            self._spend(len(seen))
            known = frozenset(s for s in seen if self.moves[s] or s == self.parts.final)
            self.closures[state] = known
        return known

    def _spend(self, work: int) -> None:
        self.work += work
        if self.work > MOST_WORK:
            raise TooLarge("its alternatives overlap too much")


def _trimmed(next_SB: np.ndarray, accepting_S: np.ndarray) -> ByteAutomaton | None:
    """Without the states from which no text can end."""
    source, byte = np.nonzero(next_SB >= 0)
    target = next_SB[source, byte]
    live_S = accepting_S.copy()
    order = np.argsort(target, kind="stable")
    begin_S = np.searchsorted(target[order], np.arange(len(live_S) + 1))
    stack = list(np.nonzero(live_S)[0])
    while stack:
        state = stack.pop()
        before = np.unique(source[order[begin_S[state] : begin_S[state + 1]]])
        before = before[~live_S[before]]
        live_S[before] = True
        stack += list(before)
    if not live_S[0]:
        return None
    number_S = np.append(np.where(live_S, np.cumsum(live_S) - 1, DEAD), DEAD)  # the last entry is for DEAD itself
    return ByteAutomaton(number_S[next_SB[live_S]].astype(np.int32), accepting_S[live_S])


def _utf8(low: int, high: int) -> list[list[tuple[int, int]]]:
    """The UTF-8 of a stretch of code points as sequences of byte ranges."""
    found = []
    for last in (0x7F, 0x7FF, 0xFFFF, 0x10FFFF):
        if low <= min(high, last):
            found += _same_length(low, min(high, last))
            low = last + 1
    return found


def _same_length(low: int, high: int) -> list[list[tuple[int, int]]]:
    """Likewise, of code points that take equally many bytes: split where a byte before the last changes."""
    first, last = chr(low).encode(), chr(high).encode()
    for i in range(1, len(first)):
        span = (1 << (6 * i)) - 1  # the last i bytes run through all their values
        if low & ~span != high & ~span:
            if low & span:
                return _same_length(low, low | span) + _same_length((low | span) + 1, high)
            if high & span != span:
                return _same_length(low, (high & ~span) - 1) + _same_length(high & ~span, high)
    return [list(zip(first, last, strict=True))]
