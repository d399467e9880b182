"""Constraints that are regular languages: texts of them are written in any order, and always come to a valid end."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        begin, stretch = self._stretch(look.tokens, look.after)
        log_p = look.log_p[begin:]
        chosen = stretch.best(log_p) if look.uniforms is None else stretch.draw(log_p, look.uniforms[begin:])
        marginals = stretch.marginals(look.plain[begin:])
        return Choice([*look.tokens[:begin], *chosen], [*look.plain[:begin], *marginals])

    def forced(self, tokens: Sequence[int], after: int) -> Sequence[int]:
        """Where all valid texts agree."""
        begin, stretch = self._stretch(tokens, after)
        return [OPEN] * begin + stretch.forced()

    def complete(self, tokens: Sequence[int]) -> bool:
        """Whether they lead to where a text may end."""
        state = self._follow(tokens)
        return state is not None and self.automaton.distance_S[state] == 0

    def _stretch(self, tokens: Sequence[int], after: int) -> tuple[int, Stretch]:
        """From the first open place on: what stands before it is known, and the state behind that too."""
        begin = tokens.index(OPEN)
        state = self._follow(tokens[:begin])
        assert state is not None, "an invalid token was written"
        return begin, Stretch(self.automaton, state, tokens[begin:], after)

    def _follow(self, tokens: Sequence[int]) -> int | None:
        state: int | None = 0
        for token in tokens:
            state = None if state is None else self.automaton.follow(state, token)
        return state
