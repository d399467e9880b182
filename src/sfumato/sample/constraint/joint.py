"""Dynamic programming over a stretch of places: the most probable valid text, an exact draw, and all marginals.

The network gives each open place a distribution by itself. Of their product, restricted to the strings that lead from
the state before the stretch to one from which the text can still end in the tokens that are left, this finds

- the most probable string (Viterbi; DINGO, Suresh et al. 2025, 2505.23061),
- an exact draw: forwards through the states, each token weighed by the total weight of what may follow,
- the probability of each token at each place (forward-backward).

Written places count as certain, places that nobody read as free.

Shape letters: L places of the stretch, N of them read, S states, E edges, G sets of tokens, M members, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from sfumato.sample.categorical import categorical
from sfumato.sample.constraint.automaton import Automaton, Order

OPEN = -1
_NEVER = -np.inf


@dataclass(frozen=True)
class Stretch:
    """A stretch of a row, and what the network says there."""

    automaton: Automaton
    state: int
    """Before its first place."""
    tokens_L: Sequence[int]
    """-1 where it is open."""
    after: int
    """Places behind it, all open to the end of the row."""
    log_p_LV: Sequence[np.ndarray | None]
    """float64 of each place, unnormalised; None where it is written or free."""

    def draw(self, u_L: Sequence[float]) -> list[int]:
        """A valid string, drawn from the product of the distributions given that it is valid.

        Args:
            u_L: uniform numbers in (0, 1).
        """

        def pick(place: int, value_C: np.ndarray) -> int:
            return int(categorical(torch.from_numpy(value_C)[None], torch.tensor([u_L[place]], dtype=torch.float64)))

        return self._walk(self._behind_LS, pick)

    def best(self) -> list[int]:
        """The most probable valid string; of equals the one of smaller tokens."""
        return self._walk(self._backward(self._scores(_max), _max), lambda place, value_C: int(value_C.argmax()))

    def marginals(self) -> list[np.ndarray | None]:
        """Log p(token at the place | the string is valid), float64_V of each place that was read."""
        automaton, order = self.automaton, self.automaton.by_token
        before_LS, behind_LS = self._forward(self._score_LG, _log_sum), self._behind_LS
        read = [i for i, log_p_V in enumerate(self.log_p_LV) if log_p_V is not None]
        pair_NE = before_LS[read][:, automaton.source_E] + behind_LS[1:][read][:, automaton.target_E]
        weight_NG = _grouped(pair_NE, automaton.by_set, _log_sum)
        weight_NK = _grouped(weight_NG[:, automaton.set_M], order, _log_sum) - behind_LS[0][self.state]
        found: list[np.ndarray | None] = [None] * len(self.log_p_LV)
        for i, weight_K in zip(read, weight_NK, strict=True):
            log_p_V, value_V = self.log_p_LV[i], np.full(automaton.vocab_size, _NEVER)
            assert log_p_V is not None
            value_V[order.key] = log_p_V[order.key] + weight_K
            found[i] = value_V
        return found

    def forced(self) -> list[int]:
        """The token of each place that only one can take; -1 elsewhere."""
        score_LG, automaton = self._scores(_max), self.automaton
        before_LS, behind_LS, found = self._forward(score_LG, _max), self._backward(score_LG, _max), []
        for i, token in enumerate(self.tokens_L):
            possible_E = before_LS[i][automaton.source_E] + behind_LS[i + 1][automaton.target_E] > _NEVER
            sets = np.unique(automaton.set_E[possible_E])
            single = token == OPEN and len(sets) == 1 and np.diff(automaton.begin_G)[sets[0]] == 1
            found.append(int(automaton.token_M[automaton.begin_G[sets[0]]]) if single else OPEN)
        return found

    @property
    def possible(self) -> bool:
        """Whether any valid string fits what is written."""
        return bool(self._behind_LS[0][self.state] > _NEVER)

    @cached_property
    def _score_LG(self) -> np.ndarray:
        return self._scores(_log_sum)

    @cached_property
    def _behind_LS(self) -> np.ndarray:
        return self._backward(self._score_LG, _log_sum)

    def _scores(self, reduce: "_Reduce") -> np.ndarray:
        """float64 (L, G): of each set at each place, the best or the total weight of its tokens."""
        automaton = self.automaton
        score_LM = np.zeros((len(self.tokens_L), len(automaton.token_M)))
        for i, (token, log_p_V) in enumerate(zip(self.tokens_L, self.log_p_LV, strict=True)):
            if token != OPEN:
                score_LM[i] = np.where(automaton.token_M == token, 0.0, _NEVER)
            elif log_p_V is not None:
                score_LM[i] = log_p_V[automaton.token_M]
        return reduce(score_LM, automaton.members)

    def _backward(self, score_LG: np.ndarray, reduce: "_Reduce") -> np.ndarray:
        """float64 (L + 1, S): the best or the total weight of what leads from a state before a place to a good end."""
        automaton = self.automaton
        value_LS = np.full((len(score_LG) + 1, automaton.states), _NEVER)
        value_LS[-1] = np.where(automaton.distance_S <= self.after, 0.0, _NEVER)
        for i in range(len(score_LG) - 1, -1, -1):
            pair_E = score_LG[i][automaton.set_E] + value_LS[i + 1][automaton.target_E]
            value_LS[i][automaton.by_source.key] = reduce(pair_E, automaton.by_source)
        return value_LS

    def _forward(self, score_LG: np.ndarray, reduce: "_Reduce") -> np.ndarray:
        """float64 (L, S): the best or the total weight of what leads to a state before a place."""
        automaton = self.automaton
        value_LS = np.full((len(score_LG), automaton.states), _NEVER)
        value_LS[0, self.state] = 0.0
        for i in range(len(score_LG) - 1):
            pair_E = value_LS[i][automaton.source_E] + score_LG[i][automaton.set_E]
            value_LS[i + 1][automaton.by_target.key] = _grouped(pair_E, automaton.by_target, reduce)
        return value_LS

    def _walk(self, behind_LS: np.ndarray, pick: Callable[[int, np.ndarray], int]) -> list[int]:
        """From left to right, the token that `pick` takes of the allowed ones, by what they and the rest weigh."""
        state, found = self.state, []
        for i, token in enumerate(self.tokens_L):
            if token == OPEN:
                token_C, after_C = self.automaton.choices(state)
                order_C = token_C.argsort()
                token_C, after_C, log_p_V = token_C[order_C], after_C[order_C], self.log_p_LV[i]
                value_C = behind_LS[i + 1][after_C] + (0.0 if log_p_V is None else log_p_V[token_C])
                chosen = pick(i, value_C)
                assert value_C[chosen] > _NEVER, "no valid text is left"
                token, state = int(token_C[chosen]), int(after_C[chosen])
            else:
                after = self.automaton.follow(state, token)
                assert after is not None, "an invalid token was written"
                state = after
            found.append(token)
        return found


_Reduce = Callable[[np.ndarray, Order], np.ndarray]


def _grouped(value: np.ndarray, order: Order, reduce: _Reduce) -> np.ndarray:
    """Reduce values that are not in order yet."""
    return reduce(value[..., order.order], order)


def _max(value: np.ndarray, order: Order) -> np.ndarray:
    """The maximum of each group of consecutive values of the last axis."""
    return np.maximum.reduceat(value, order.begin, axis=-1)


def _log_sum(value: np.ndarray, order: Order) -> np.ndarray:
    """Log sum exp of each group of consecutive values; -inf for groups without weight."""
    top = np.maximum.reduceat(value, order.begin, axis=-1)
    finite = np.where(np.isneginf(top), 0.0, top)
    total = np.add.reduceat(np.exp(value - np.repeat(finite, order.size, axis=-1)), order.begin, axis=-1)
    with np.errstate(divide="ignore"):
        return np.log(total) + finite
