"""Texts longer than the context: one window after another, each beginning with the end of the one before.

A window holds what opens a text, up to half a context of the text so far, and as much new text as there is room for.
"""

from dataclasses import dataclass, replace

from sfumato import rng
from sfumato.sample.trace import Commit, Event
from sfumato.text.prompt import Row


@dataclass
class Sliding:
    """A row on its way; one that fits the context is its own only window."""

    tokens: list[int]
    """The row so far."""
    editable: list[bool]
    context: int
    unit: int
    """Places a block; windows overlap by whole blocks."""
    opening: int
    """Leading places that every window repeats: the start token, if there is one."""
    begin: int
    """The place of the row that stands behind the window's opening."""
    filled: int
    """Leading places of the row that are written or given."""
    number: int = 0

    @classmethod
    def over(cls, row: Row, context: int, unit: int, opening: int) -> "Sliding":
        """A row of which nothing is written."""
        return cls(list(row.tokens), list(row.editable), context, unit, opening, opening, opening)

    def window(self) -> tuple[list[int], list[bool]]:
        """Tokens of the window, and which of them are to be written."""
        part, opening = slice(self.begin, self.begin + self.context - self.opening), slice(self.opening)
        open_places = [e and self.begin + i >= self.filled for i, e in enumerate(self.editable[part])]
        opened = [e and not self.number for e in self.editable[opening]]
        return [*self.tokens[opening], *self.tokens[part]], [*opened, *open_places]

    def share(self, steps: int) -> int:
        """Of so many steps for the row, those of this window: in proportion to what it writes."""
        if len(self.tokens) <= self.context:  # one that grows, too: it stays within the context
            return steps
        return -(-steps * sum(self.window()[1]) // sum(self.editable))

    def seed(self, seed: int) -> int:
        """The seed of the window; the first one's is the row's."""
        return int(rng.mix(seed, self.number)) % 2**63 if self.number else seed

    def placed(self, event: Event) -> Event:
        """An event of the window, in places of the row."""
        by = self.begin - self.opening

        def moved(commits: tuple[Commit, ...]) -> tuple[Commit, ...]:
            return tuple(replace(commit, position=commit.position + by) for commit in commits)

        return replace(
            event,
            commits=moved(event.commits),
            drafts=moved(event.drafts),
            reopened=tuple(place + by for place in event.reopened),
            inserted=tuple(place + by for place in event.inserted),
            settled=event.settled + by,
        )

    def take(self, tokens: tuple[int, ...], end_id: int) -> bool:
        """Note the finished window and move on; True when nothing is left to write."""
        n = self.opening
        self.tokens[:n] = tokens[:n]
        self.tokens[self.begin : self.begin + len(tokens) - n] = tokens[n:]
        self.filled = self.begin + len(tokens) - n
        left = len(self.tokens) - self.filled
        if left and tokens[-1] == end_id:
            self.tokens[self.filled :] = [end_id] * left
            return True
        self.begin = self.filled - (max(self.unit, self.context // 2 // self.unit * self.unit) - n)
        self.number += 1
        return not left
