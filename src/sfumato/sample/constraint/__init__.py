"""Structured output: text that obeys a regular expression, a JSON schema or a grammar, whatever the network says."""

import hashlib
from collections.abc import Sequence

from sfumato.sample.constraint.bytewise import TooLarge
from sfumato.sample.constraint.language import Language, one_of
from sfumato.sample.constraint.pattern import PatternError, parse
from sfumato.sample.constraint.regular import Regular
from sfumato.sample.constraint.seam import Constraint
from sfumato.sample.constraint.vocabulary import compiled
from sfumato.text.tokenizer import Tokenizer

__all__ = ["Constraint", "choice", "regex"]


def regex(pattern: str, tokenizer: Tokenizer) -> Constraint:
    """All of the text matches a regular expression, in the syntax of Python's `re`.

    Raises:
        ValueError: not a regular expression, one that no automaton can follow, that nothing matches, or too large.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"regex: expected text, got {type(pattern).__name__}")
    try:
        return _regular(parse(pattern), tokenizer, "regex", pattern)
    except PatternError as error:
        raise ValueError(f"regex: {error}") from None


def choice(options: Sequence[str], tokenizer: Tokenizer) -> Constraint:
    """The text is one of several.

    Raises:
        ValueError: no options, or one that is not text or empty.
    """
    if isinstance(options, str) or not all(isinstance(option, str) and option for option in options):
        raise ValueError(f"choice: expected a list of texts that are not empty, got {options!r}")
    if not options:
        raise ValueError("choice: expected at least one text to choose from, got none")
    return _regular(one_of(options), tokenizer, "choice", *options)


def _regular(language: Language, tokenizer: Tokenizer, what: str, *key: str) -> Constraint:
    digest = hashlib.sha256("\0".join((what, *key)).encode("utf-8", "surrogatepass")).hexdigest()
    try:
        automaton = compiled(language, tokenizer, digest)
    except TooLarge as error:
        raise ValueError(f"{what}: too large ({error}); shorten it, or ask for fewer repetitions") from None
    if automaton is None:
        raise ValueError(f"{what}: no text matches it")
    return Regular(automaton)
