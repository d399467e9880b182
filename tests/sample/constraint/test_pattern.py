"""Regular expressions against Python's own engine, and the budget."""

import itertools
import re

import pytest

from sfumato.sample.constraint import regex
from sfumato.sample.constraint.bytewise import ByteAutomaton, TooLarge, determinised
from sfumato.sample.constraint.language import complement, lengths, ranges
from sfumato.sample.constraint.pattern import PatternError, parse, parse_search
from sfumato.text.tokenizer import Tokenizer

PATTERNS = [
    "",
    "a",
    "ab|ba",
    "a*b+c?",
    "(a|b)*abb",
    "(?:ab){2,3}",
    "a{2}|b{0,2}",
    "(a*)*",
    "(a|ab)(c|bcd)*",
    "[^a]b",
    "[a-c]{2,}?",
    ".b.",
    "^ab$",
    "^a|b$",
    "(^(a|b)$)",
    "()a()",
    "(a{0,2}){2}",
    "(?P<x>a)b",
    "(?s)a.",
    "(?x) a  b # comment",
    r"\w+",
    r"[\w-]c",
    r"\S\s",
    r"\D{2}",
    "[ä-ö]+",
    r"[^\W\d]+",
    "é|日",
    "(a+){2,}b",
]
LETTERS = "abc\n -_1äö日é"


def takes(automaton: ByteAutomaton | None, text: str) -> bool:
    return automaton is not None and automaton.takes(text.encode())


def texts():
    for length in range(4):
        yield from map("".join, itertools.product(LETTERS, repeat=length))
    yield from map("".join, itertools.product("abc", repeat=6))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_language_is_what_fullmatch_takes(pattern: str):
    automaton, compiled = determinised(parse(pattern)), re.compile(pattern)
    assert [text for text in texts() if takes(automaton, text) != bool(compiled.fullmatch(text))] == []


CLASSES = [r"\d", r"\D", r"[^\d]", r"[^\D]", r"\w", r"[^\w]", r"[^\W]", r"\s", r"[^\S]", r"[^\W\d]"]


@pytest.mark.parametrize("pattern", [*CLASSES, *(f"(?a){one}" for one in CLASSES)])
def test_classes_take_nothing_that_fullmatch_does_not(pattern: str):
    automaton, compiled = determinised(parse(pattern)), re.compile(pattern)
    taken = [letter for letter in "1a_ é٣\x85日\x1c\n-" if takes(automaton, letter)]
    assert taken and all(compiled.fullmatch(letter) for letter in taken)


@pytest.mark.parametrize("pattern", ["a", "^a", "b$", "^(a|bc)$", "^a|b$", "a.*b", "", "^$", "[^a]"])
def test_searching_finds_it_anywhere(pattern: str):
    automaton, compiled = determinised(parse_search(pattern)), re.compile(pattern)
    for text in map("".join, itertools.product("ab1", repeat=4)):
        assert takes(automaton, text) == bool(compiled.search(text)), text


def test_only_clean_text_belongs():
    automaton = determinised(parse("(?s).*"))
    assert automaton is not None
    assert takes(automaton, "\x01\U0010ffff") and not takes(automaton, "\0")
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):  # no UTF-8, or half of it
        assert not automaton.takes(bad)


def test_characters_outside():
    assert complement(ranges([(97, 99)])) == ((1, 96), (100, 0xD7FF), (0xE000, 0x10FFFF))
    assert complement(complement(ranges([(5, 5), (6, 9)]))) == ((5, 9),)
    assert lengths(parse("a{2,4}|b*")) == (0, None)
    assert lengths(parse("(ab){2,4}|c")) == (1, 8)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(a", "not a regular expression: missing ), unterminated subpattern at character 1"),
        ("a**", "multiple repeat at character 3"),
        (r"(a)\1", "a back-reference cannot be followed"),
        ("(?=a)b", "looking ahead or behind"),
        ("(?<!a)b", "looking ahead or behind"),
        ("a^b", "^, $ or"),
        (r"\bab", "^, $ or"),
        ("(?i)a", "the flags i, m and L"),
        ("(?i:a)", "flags inside of groups"),
        ("a++", "cannot be followed"),
        ("x" * 30_000, "30000 characters"),
        ("(" * 2000 + ")" * 2000, "nested too deeply"),
        (r"[^\s\S]", "no text matches it"),
        ("[ab]*a[ab]{16}", "too large (more than 20000 states)"),
        ("a{1,100000}", "too large"),
        ("((a{1,1000}){1,1000}){1,1000}", "too large"),
        ("(((.*a){50}b){50}c){50}", "too large"),
        ("(.{0,200}){0,200}", "too large"),
        ("a{99999999999}", "too large"),
    ],
    ids=lambda value: value[:20],
)
def test_what_cannot_be_followed_is_one_line(pattern: str, told: str, tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="^regex: ") as error:
        regex(pattern, tokenizer)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_errors_have_their_kinds():
    with pytest.raises(PatternError):
        parse("(")
    with pytest.raises(TooLarge):
        determinised(parse("a{1,100000}"))
