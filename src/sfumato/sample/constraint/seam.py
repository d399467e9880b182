"""What a constraint is: a rule that the text of a row obeys, from its first open place to its end.

Shape letters: L places under the constraint, N of them read in a step, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Look:
    """What a constraint sees of a row in a step."""

    tokens: Sequence[int]
    """From the first place under the constraint to the last that is written or read; -1 where it is open."""
    after: int
    """Open places behind them, to the end of the row."""
    log_p: Sequence[np.ndarray | None]
    """Of each place, if it is open and was read, float64_V: what tokens are drawn from, unnormalised, all finite."""
    plain: Sequence[np.ndarray | None]
    """Likewise what the network says, before temperature and filters."""
    uniforms: Sequence[float] | None
    """For each place a number in (0, 1) to draw with; None = the most probable text."""


@dataclass(frozen=True)
class Choice:
    """What a constraint makes of it."""

    tokens: Sequence[int]
    """A token for each place. Written tokens stay; any of the others may be committed, in any order.

    A sequential constraint may decide on the first open places only, and gives -1 for the others."""
    log_p: Sequence[np.ndarray | None]
    """For the samplers: of each place that was read, float64_V, how probable each token is under the constraint."""


class Constraint(Protocol):
    """Immutable; one object may serve many rows at a time."""

    @property
    def sequential(self) -> bool:
        """Whether text is only understood from left to right: then places are written in that order."""
        ...

    @property
    def shortest(self) -> int:
        """The fewest tokens that a text takes, without an end; 0 where that is not known."""
        ...

    def choose(self, look: Look) -> Choice:
        """Decide jointly on the open places."""
        ...

    def forced(self, tokens: Sequence[int], after: int) -> Sequence[int]:
        """Of each of these places the token that it must take, if it is open and there is only one; else -1."""
        ...

    def complete(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, up to an end or without one, are a whole valid text."""
        ...
