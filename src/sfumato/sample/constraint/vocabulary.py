"""A byte automaton seen through a vocabulary: which tokens lead from which state to which.

Where the text is forced, only its own tokenization is allowed, so that the tokens are forced too. No text is lost.

Shape letters: S states, B bytes, K nodes of the tree of all tokens, C children of all nodes, P pairs of state and node.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.sample.constraint.automaton import FAR, Automaton, from_edges
from sfumato.sample.constraint.bytewise import ByteAutomaton, TooLarge, determinised
from sfumato.sample.constraint.language import Language, Repeat, literal, seq
from sfumato.text.interface import AnyTokenizer

MOST_PAIRS = 10_000_000  # of state and token that are tried, about a second
_LONGEST_FORCED = 256  # bytes that are looked at for their tokenization
_MOST_KEPT = 64

_cache: "OrderedDict[tuple, Any]" = OrderedDict()
_lock = threading.Lock()


def compiled(language: Language, tokenizer: AnyTokenizer, key: str) -> Automaton | None:
    """The automaton of a language, or None when it is empty; kept under a key for the next request.

    Where the tokens that begin words bring a space along, there may be one before the text.

    Raises:
        TooLarge: beyond the budget.
        ValueError: the tokens of the vocabulary cannot spell any of its texts.
    """

    def make() -> Automaton | None:
        bytewise = determinised(seq(Repeat(literal(" "), 0, 1), language) if tokenizer.spaced else language)
        return None if bytewise is None else lifted(bytewise, tokenizer)

    return _kept((key, tokenizer.identity), make)


def lifted(automaton: ByteAutomaton, tokenizer: AnyTokenizer) -> Automaton:
    """The automaton over the tokens of a vocabulary.

    Raises:
        TooLarge: beyond the budget.
    """
    source, token, target = _token_edges(automaton, tokenizer)
    forced_S = _forced_tokens(automaton, tokenizer)
    spelt_S = np.zeros(len(forced_S), bool)  # a text may be tokenised otherwise inside of another
    spelt_S[source[forced_S[source] == token]] = True
    keep = ~spelt_S[source] | (forced_S[source] == token)
    source, token, target = source[keep], token[keep], target[keep]
    sizes = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id}
    found = from_edges(source, token, target, automaton.accepting_S, **sizes)
    lost_S = found.distance_S == FAR  # some vocabularies cannot spell everything
    if lost_S[0]:
        raise ValueError("the tokens of this model cannot spell any text that fits")
    if not lost_S.any():
        return found
    keep = ~lost_S[target] & ~lost_S[source]
    return from_edges(source[keep], token[keep], target[keep], automaton.accepting_S, **sizes)


def _token_edges(automaton: ByteAutomaton, tokenizer: AnyTokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every token from every state, by walking down the tree of all tokens from all states at once."""
    begin_K, byte_C, node_C, token_K = _kept(("tree", tokenizer.identity), lambda: _tree(tokenizer))
    states = len(automaton.accepting_S)
    source_P, node_P, state_P = np.arange(states), np.zeros(states, np.int64), np.arange(states)
    found, tried = [], 0
    while len(source_P):
        count_P = begin_K[node_P + 1] - begin_K[node_P]
        tried += int(count_P.sum())
        if tried > MOST_PAIRS:
            raise TooLarge(f"more than {MOST_PAIRS} pairs of state and token")
        of_P = np.repeat(np.arange(len(node_P)), count_P)
        child = np.arange(len(of_P)) - np.repeat(np.cumsum(count_P) - count_P, count_P) + begin_K[node_P[of_P]]
        state = automaton.next_SB[state_P[of_P], byte_C[child]]
        alive = state >= 0
        source_P, node_P, state_P = source_P[of_P[alive]], node_C[child[alive]], state[alive].astype(np.int64)
        spells = token_K[node_P] >= 0
        found.append((source_P[spells], token_K[node_P[spells]], state_P[spells]))
    source, token, target = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return source, token, target


def _forced_tokens(automaton: ByteAutomaton, tokenizer: AnyTokenizer) -> np.ndarray:
    """int64_S, the first token of the text that is forced from here on; -1 where none is."""
    ways_S = (automaton.next_SB >= 0).sum(axis=1)
    forced_S = (ways_S == 1) & ~automaton.accepting_S
    byte_S = (automaton.next_SB >= 0).argmax(axis=1)
    token_S = np.full(len(forced_S), -1, np.int64)
    for state in np.nonzero(forced_S)[0]:
        text, here = bytearray(), int(state)
        while forced_S[here] and len(text) < _LONGEST_FORCED:
            text.append(byte_S[here])
            here = int(automaton.next_SB[here, byte_S[here]])
        try:
            token_S[state] = (tokenizer.encode(text.decode(), continued=True) or [-1])[0]
        except UnicodeDecodeError:  # the text goes on in the middle of a character
            continue
    return token_S


@dataclass
class _Node:
    children: dict[int, int]
    token: int = -1


def _tree(tokenizer: AnyTokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All tokens by their bytes: begin_K of a node's children; byte_C and node_C of each child; token_K, -1 = none."""
    nodes = [_Node({})]
    for token in range(tokenizer.vocab_size):
        if tokenizer.is_special(token):
            continue
        at = 0
        for byte in tokenizer.token_bytes(token):
            if byte not in nodes[at].children:
                nodes[at].children[byte] = len(nodes)
                nodes.append(_Node({}))
            at = nodes[at].children[byte]
        if nodes[at].token < 0 or _usual(token, tokenizer):
            nodes[at].token = token
    begin_K = np.cumsum([0, *(len(node.children) for node in nodes)])
    byte_C = np.array([byte for node in nodes for byte in node.children])
    node_C = np.array([child for node in nodes for child in node.children.values()])
    return begin_K, byte_C, node_C, np.array([node.token for node in nodes])


def _usual(token: int, tokenizer: AnyTokenizer) -> bool:
    """Whether its text is encoded as this token, and not as another one that spells the same."""
    try:
        return tokenizer.encode(tokenizer.token_bytes(token).decode(), continued=True) == [token]
    except ValueError:  # a piece of a character, or a NUL
        return False


def _kept(key: tuple, make: Callable[[], Any]) -> Any:
    """The value of a key, computed once while it is among the latest asked for."""
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    value = make()
    with _lock:
        _cache[key] = value
        while len(_cache) > _MOST_KEPT:
            _cache.popitem(last=False)
    return value
