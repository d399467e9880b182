"""Constraints that are followed from left to right by a parser (the package `llguidance`).

Grammars that nest without a limit are beyond automata. Here the open places are drafted one after the other, each with
the tokens that may follow what is drafted before it; samplers then commit a beginning of the draft.

A token is taken only if a way to a valid end is known that still fits behind it. The way is looked for greedily, with
what tends to close things first. Where none is known at the start, a text may stay unfinished.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sfumato.sample.categorical import categorical
from sfumato.sample.constraint.seam import Choice, Look
from sfumato.sample.constraint.validation import INSTALL
from sfumato.text.interface import AnyTokenizer

_OPEN = -1
_CLOSERS = b'"}]):,;0ntf'  # tried first where an end is looked for, in this order
_OPENERS = b"[({<- \n\t"  # tried last
_LONGEST_WAY = 128  # tokens
_STUCK = 4  # times the same token in a row
_TRIES = 8  # other tokens that are tried before the known way is taken
_MOST_KEPT = 4096


def from_lark(lark: str, tokenizer: AnyTokenizer) -> "Grammar":
    """A grammar in Lark's syntax, as llguidance reads it (ValueError)."""
    matcher = _library().LLMatcher
    return _grammar(matcher.grammar_from_lark(lark), tokenizer, "grammar")


def from_schema(schema: Any, tokenizer: AnyTokenizer, reason: str) -> "Grammar":
    """A JSON schema that is not regular, for this reason (ValueError where llguidance cannot follow it either)."""
    matcher = _library().LLMatcher
    options = {"whitespace_flexible": False}
    try:
        text = matcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    except ValueError as error:
        raise ValueError(f"json_schema: {reason}, nor by a grammar: {error}") from None
    return _grammar(text, tokenizer, "json_schema", f"{reason}, nor by a grammar: ")


def _grammar(text: str, tokenizer: AnyTokenizer, what: str, reason: str = "") -> "Grammar":
    library = _library()
    vocabulary = _vocabulary(tokenizer)
    wrong, messages = library.LLMatcher.validate_grammar_with_warnings(text, vocabulary)
    matcher = library.LLMatcher(vocabulary, text, log_level=0)
    if wrong or matcher.is_error():
        told = messages[0] if messages else matcher.get_error()
        raise ValueError(f"{what}: {reason}{' '.join(told.split())[:300]}")
    return Grammar(text, matcher, tokenizer)


def _rebuilt(text: str, tokenizer: AnyTokenizer) -> "Grammar":
    return _grammar(text, tokenizer, "grammar")


@dataclass(eq=False)
class Grammar:
    """The texts that a parser takes."""

    text: str
    """As llguidance reads it."""
    begin: Any
    """A matcher before the first token."""
    tokenizer: AnyTokenizer
    sequential = True
    _ways: "OrderedDict[tuple[int, ...], list[int] | None]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: what it is made of."""
        return _rebuilt, (self.text, self.tokenizer)

    @property
    def shortest(self) -> int:
        """The length of the way to an end that is known, an upper bound; 0 if none is."""
        return len(self._way((), self.begin) or ())

    def choose(self, look: Look) -> Choice:
        """A draft, place by place; -1 for what comes after a place that was not read."""
        tokens, log_p = list(look.tokens), list(look.plain)
        first = tokens.index(_OPEN)
        matcher, written = self._after(tokens[:first]), tuple(tokens[:first])
        for place in range(first, len(tokens)):
            sharp_V, plain_V = look.log_p[place], look.plain[place]
            if tokens[place] != _OPEN or sharp_V is None or plain_V is None:
                break
            left = len(tokens) - place + look.after
            uniform = None if look.uniforms is None else look.uniforms[place]
            over = self.tokenizer.end_id in written[-1:]
            allowed = np.array([self.tokenizer.end_id]) if over else self._allowed(matcher)
            token = self._token(matcher, written, allowed, sharp_V, uniform, left)
            told_V = np.full_like(plain_V, -np.inf)
            told_V[allowed] = plain_V[allowed]
            tokens[place], log_p[place], written = token, told_V, (*written, token)
            if token != self.tokenizer.end_id:
                matcher.consume_token(token)
        return Choice(tokens, log_p)

    def forced(self, tokens: Sequence[int], after: int) -> Sequence[int]:
        """What follows without an alternative, if there is room for it."""
        found, first = [_OPEN] * len(tokens), list(tokens).index(_OPEN)
        matcher = self._after(tokens[:first])
        way = self._way(tuple(tokens[:first]), matcher)
        sure = [] if matcher.is_stopped() else matcher.compute_ff_tokens()
        if way is not None and way[: len(sure)] == sure:  # another tokenization could need more room than there is
            found[first:] = [*sure, *[_OPEN] * len(tokens)][: len(tokens) - first]
        return found

    def complete(self, tokens: Sequence[int]) -> bool:
        """Whether the parser takes them."""
        matcher = self.begin.deep_copy()
        for token in tokens:
            if token == self.tokenizer.end_id:
                break
            if not matcher.consume_token(token):
                return False
        return bool(matcher.is_accepting())

    def _after(self, tokens: Sequence[int]) -> Any:
        """The matcher behind these tokens. One that meets a limit of its own has stopped: the text ends there."""
        matcher = self.begin.deep_copy()
        matcher.consume_tokens([token for token in tokens if token != self.tokenizer.end_id])
        return matcher

    def _allowed(self, matcher: Any) -> np.ndarray:
        """int64, the tokens that may come next; the end where the text is whole."""
        end_id = self.tokenizer.end_id
        if matcher.is_stopped():
            return np.array([end_id])
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        found = np.nonzero(bits[: self.tokenizer.vocab_size])[0]
        return found[self._writable[found] | (found == end_id)]

    def _token(
        self,
        matcher: Any,
        written: tuple[int, ...],
        allowed: np.ndarray,
        log_p_V: np.ndarray,
        uniform: float | None,
        left: int,
    ) -> int:
        """One of the allowed tokens, behind which a way to an end still fits; any, if no way is known."""
        value_C, way = log_p_V[allowed], self._way(written, matcher)
        if way is None:
            return int(allowed[_picked(value_C, uniform)])
        for _ in range(min(_TRIES, len(allowed))):
            chosen = _picked(value_C, uniform)
            token = int(allowed[chosen])
            if token == self.tokenizer.end_id:
                return token
            ahead = matcher.deep_copy()
            ahead.consume_token(token)
            rest = self._way((*written, token), ahead)
            if rest is not None and len(rest) < left:
                return token
            value_C = np.where(np.arange(len(value_C)) == chosen, -np.inf, value_C)
        if not way:
            return self.tokenizer.end_id
        self._keep((*written, way[0]), way[1:])
        return way[0]

    def _way(self, written: tuple[int, ...], matcher: Any) -> list[int] | None:
        """Tokens that lead to an end, or None if they are not found."""
        with self._lock:
            if written in self._ways:
                return self._ways[written]
        way = self._searched(matcher.deep_copy())
        self._keep(written, way)
        return way

    def _keep(self, written: tuple[int, ...], way: list[int] | None) -> None:
        with self._lock:
            self._ways[written] = way
            while len(self._ways) > _MOST_KEPT:
                self._ways.popitem(last=False)

    def _searched(self, matcher: Any) -> list[int] | None:
        """Greedily: what is forced, else what tends to close; something else where that does not help."""
        way: list[int] = []
        while not (matcher.is_accepting() or matcher.is_stopped()):
            step = matcher.compute_ff_tokens()
            if not step:
                allowed = self._allowed(matcher)
                soonest = self._closers[np.isin(self._closers, allowed)]
                stuck = len(way) >= _STUCK and len(set(way[-_STUCK:])) == 1
                step = [int(allowed[len(way) * 7919 % len(allowed)] if stuck or not len(soonest) else soonest[0])]
            if len(way) > _LONGEST_WAY or not matcher.consume_tokens(step):
                return None
            way += step
        return None if matcher.is_error() else way

    @cached_property
    def _writable(self) -> np.ndarray:
        """bool, the tokens that stand for text."""
        return np.array([not self.tokenizer.is_special(token) for token in range(self.tokenizer.vocab_size)])

    @cached_property
    def _closers(self) -> np.ndarray:
        """Tokens of one byte, what closes before what opens."""
        single = {self.tokenizer.token_bytes(token): token for token in range(self.tokenizer.vocab_size)}
        others = bytes(byte for byte in range(1, 256) if byte not in _CLOSERS + _OPENERS)
        wanted = (bytes([byte]) for byte in _CLOSERS + others + _OPENERS)
        return np.array([single[byte] for byte in wanted if byte in single], np.int64)


def _picked(value_C: np.ndarray, uniform: float | None) -> int:
    if uniform is None:
        return int(value_C.argmax())
    return int(categorical(torch.from_numpy(value_C)[None], torch.tensor([uniform], dtype=torch.float64)))


def _vocabulary(tokenizer: AnyTokenizer) -> Any:
    """The tokenizer as llguidance wants it."""
    library = _library()
    if tokenizer.identity not in _vocabularies:
        _vocabularies.clear()
        _vocabularies[tokenizer.identity] = library.LLTokenizer(library.TokenizerWrapper(_Spelled(tokenizer)))
    return _vocabularies[tokenizer.identity]


_vocabularies: dict[str, Any] = {}


class _Spelled:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: AnyTokenizer):
        self.eos_token_id = tokenizer.end_id
        special = [tokenizer.is_special(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = [i for i, is_special in enumerate(special) if is_special]
        self.tokens = [
            f"<|special {i}|>".encode() if is_special else tokenizer.token_bytes(i)
            for i, is_special in enumerate(special)
        ]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text, continued=True)


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ValueError(f"grammar: needs the package llguidance; {INSTALL}") from None
    return llguidance
