"""Texts that are too short, too long, or that repeat themselves."""

import re

WORDS = 5  # that make a repetition
_WORD = re.compile(r"\w+")


class Length:
    """Characters, without space at either end."""

    name = "length"

    def __init__(self, shortest: int = 1, longest: int = 0):
        """The bounds; longest 0 = none."""
        self.shortest, self.longest = shortest, longest

    def __call__(self, text: str) -> str:
        """Whether it is out of bounds."""
        size = len(text.strip())
        outside = size < self.shortest or (self.longest and size > self.longest)
        return f"{size} characters" if outside else ""


class Repetition:
    """The share of a text's words that stand in a run of five which stood in the text before.

    A measure of Rae et al. 2021 (Gopher, 2112.11446, table A1), for words instead of characters. A refrain is no
    fault, so the bound is far from what a story has.
    """

    name = "repetition"

    def __init__(self, most: float = 0.5):
        """most: the largest share that may stay."""
        self.most = most

    def __call__(self, text: str) -> str:
        """How much of it is repeated, if that is too much."""
        share = repeated(text)
        return f"{share:.0%} of the words repeat what was said" if share > self.most else ""


def repeated(text: str) -> float:
    """The share of words in runs of five that stood in the text before; 0 for fewer than ten words."""
    words = _WORD.findall(text.casefold())
    if len(words) < 2 * WORDS:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    again = [False] * len(words)
    for i in range(len(words) - WORDS + 1):
        run = tuple(words[i : i + WORDS])
        if run in seen:
            again[i : i + WORDS] = [True] * WORDS
        seen.add(run)
    return sum(again) / len(words)
