"""Constraints that are regular languages: texts of them are written in any order, and always come to a valid end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sfumato.sample.constraint.automaton import Automaton
from sfumato.sample.constraint.joint import OPEN, Stretch
from sfumato.sample.constraint.seam import Choice, Look


@dataclass(frozen=True, eq=False)
class Regular:
    """The texts that an automaton takes."""

    automaton: Automaton
    sequential = False

    @property
    def shortest(self) -> int:
        """As the automaton knows."""
        return int(self.automaton.distance_S[0])

    def choose(self, look: Look) -> Choice:
        """The most probable valid text or a draw, and how probable each token is among the valid texts."""
        begin, sharp = self._stretch(look.tokens, look.after, look.log_p)
        plain = sharp if look.log_p is look.plain else replace(sharp, log_p_LV=look.plain[begin:])
        chosen = sharp.best() if look.uniforms is None else sharp.draw(look.uniforms[begin:])
        return Choice([*look.tokens[:begin], *chosen], [*look.plain[:begin], *plain.marginals()])

    def forced(self, tokens: Sequence[int], after: int) -> Sequence[int]:
        """Where all valid texts agree."""
        begin, stretch = self._stretch(tokens, after, [None] * len(tokens))
        return [OPEN] * begin + stretch.forced()

    def complete(self, tokens: Sequence[int]) -> bool:
        """Whether they lead to where a text may end."""
        state = self._follow(tokens)
        return state is not None and self.automaton.distance_S[state] == 0

    def _stretch(self, tokens: Sequence[int], after: int, log_p: Sequence[np.ndarray | None]) -> tuple[int, Stretch]:
        """From the first open place on: what stands before it is known, and the state behind that too."""
        begin = tokens.index(OPEN)
        state = self._follow(tokens[:begin])
        assert state is not None, "an invalid token was written"
        return begin, Stretch(self.automaton, state, tokens[begin:], after, log_p[begin:])

    def _follow(self, tokens: Sequence[int]) -> int | None:
        state: int | None = 0
        for token in tokens:
            state = None if state is None else self.automaton.follow(state, token)
        return state
