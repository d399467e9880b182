"""Structured output: text that obeys a regular expression, a JSON schema or a grammar, whatever the network says."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.sample.constraint.bytewise import TooLarge
from sfumato.sample.constraint.context_free import from_lark, from_schema
from sfumato.sample.constraint.language import Language, one_of
from sfumato.sample.constraint.merge import NotRegular
from sfumato.sample.constraint.pattern import PatternError, parse
from sfumato.sample.constraint.regular import Regular
from sfumato.sample.constraint.schema import Documents, any_object, any_value
from sfumato.sample.constraint.seam import Constraint
from sfumato.sample.constraint.validation import checked, taker
from sfumato.sample.constraint.vocabulary import compiled
from sfumato.text.interface import AnyTokenizer

__all__ = ["Constraint", "choice", "grammar", "json_object", "json_schema", "regex"]
_DEPTHS = (3, 2, 1)  # how often a reference is followed within itself; less where that takes too much


def regex(pattern: str, tokenizer: AnyTokenizer) -> Constraint:
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


def choice(options: Sequence[str], tokenizer: AnyTokenizer) -> Constraint:
    """The text is one of several.

    Raises:
        ValueError: no options, or one that is not text or empty.
    """
    if isinstance(options, str) or not all(isinstance(option, str) and option for option in options):
        raise ValueError(f"choice: expected a list of texts that are not empty, got {options!r}")
    if not options:
        raise ValueError("choice: expected at least one text to choose from, got none")
    return _regular(one_of(options), tokenizer, "choice", *options)


def json_schema(schema: Mapping[str, Any] | bool | str, tokenizer: AnyTokenizer) -> Constraint:
    """The text is a JSON document that a schema takes, without space between its parts.

    Most schemas become regular languages: then every text comes to a valid end within its tokens. The others are
    followed from left to right (`grammar`).

    Args:
        schema: as Python values or as JSON text.
        tokenizer: the model's.

    Raises:
        ValueError: no schema, one that takes no document, or one that nothing here can follow; with the place (a JSON
            pointer); or the extra `constrain` is not installed.
    """
    try:
        return _documents(checked(schema), tokenizer)
    except RecursionError:
        raise ValueError("json_schema: nested too deeply; write it with $ref") from None


def _documents(found: Any, tokenizer: AnyTokenizer) -> Constraint:
    key, reason = json.dumps(found), "too large"
    for depth in _DEPTHS:
        documents = Documents(found, taker(found), depth=depth)
        try:
            automaton = compiled(documents.language(), tokenizer, _key("json_schema", str(depth), key))
        except TooLarge as error:
            reason = f"too large ({error})"
            if not documents.nests:
                break
            continue
        except NotRegular as error:
            reason = str(error)
            break
        except ValueError as error:
            raise ValueError(f"json_schema: {error}") from None
        if automaton is None:
            why = [*documents.impossible, "no text fits its patterns"][0]
            raise ValueError(f"json_schema: no document is valid: {why}")
        return Regular(automaton)
    return from_schema(found, tokenizer, reason)


def json_object(tokenizer: AnyTokenizer) -> Constraint:
    """The text is any JSON object, in which lists and objects nest up to three deep, without space."""
    return _regular(any_object(any_value(2)), tokenizer, "json_object")


def grammar(lark: str, tokenizer: AnyTokenizer) -> Constraint:
    """The text belongs to a context-free grammar in the Lark syntax of llguidance; it is written from left to right.

    Raises:
        ValueError: no grammar, or the extra `constrain` is not installed.
    """
    if not isinstance(lark, str):
        raise ValueError(f"grammar: expected text, got {type(lark).__name__}")
    return from_lark(lark, tokenizer)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _regular(language: Language, tokenizer: AnyTokenizer, what: str, *key: str) -> Constraint:
    try:
        automaton = compiled(language, tokenizer, _key(what, *key))
    except TooLarge as error:
        raise ValueError(f"{what}: too large ({error}); shorten it, or ask for fewer repetitions") from None
    if automaton is None:
        raise ValueError(f"{what}: no text matches it")
    return Regular(automaton)
