"""Words that a text must contain: they are put onto the canvas before the writing, where the model likes them best.

A word's place is drawn from the probabilities that the network gives its tokens there, one word after the other, the
longest first; each placement costs one forward pass. What is fixed is never changed, so the words are sure to appear,
and as words: the token before is no part of them, and `WholeWords` keeps the token after from carrying them on.

Shape letters: L row length, V vocabulary, N positions read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas, Where
from sfumato.model.layout import Layout
from sfumato.model.transformer import Denoiser
from sfumato.process import Process
from sfumato.sample.categorical import categorical
from sfumato.sample.guidance import Branch
from sfumato.text.interface import AnyTokenizer
from sfumato.text.prompt import Row

_PLACE = 43  # draw purpose


@dataclass(frozen=True, eq=False)
class WholeWords:
    """Guidance that keeps words whole: no token that would carry a word on is written right behind it."""

    behind: frozenset[int]
    """Places of the row."""
    carrying_V: Tensor
    """bool, tokens that begin with a letter or a digit."""
    levels = (0.0, 1.0)

    def branches(self, tokens: Sequence[int], editable: Sequence[bool], end_id: int) -> list[Branch]:
        """None."""
        return []

    def combine(self, logits_GNV: Sequence[Tensor], index_N: Tensor, canvas: Canvas) -> Tensor:
        """-inf for those tokens at those places."""
        place_N = index_N % canvas.tokens_BL.shape[1]
        there_N = torch.isin(place_N, torch.tensor(sorted(self.behind), device=place_N.device))
        return logits_GNV[0].masked_fill(there_N[:, None] & self.carrying_V.to(place_N.device), float("-inf"))


@dataclass(frozen=True)
class Placer:
    """Puts words into rows."""

    denoiser: Denoiser
    process: Process
    layout: Layout
    tokenizer: AnyTokenizer
    device: torch.device

    def __call__(self, row: Row, words: Sequence[str], seed: int) -> tuple[Row, WholeWords]:
        """The row with the words in some of its holes, and the guidance that keeps them whole.

        A word that the given text holds already is not placed again.

        Raises:
            ValueError: a word that is empty or has space around it, words that do not fit into the holes, or a model
                whose network does not see the whole text.
        """
        if self.layout.name != "full":
            raise ValueError(
                f"keywords: a model with the {self.layout.name} layout does not see words that stand further on; use "
                "one with the full layout, or a block that holds all of the text"
            )
        for word in words:
            if not word or word != word.strip():
                raise ValueError(f"keywords: expected words without space around them, got {word!r}")
        given = self._given(row)
        left = [word for word in dict.fromkeys(words) if not holds(given, word)]
        left.sort(key=lambda word: -self._longest(word))
        space = _Space(row, self.tokenizer)
        if not space.fits([self._longest(word) for word in left]):
            raise ValueError(
                f"keywords: {', '.join(left)} need {sum(map(self._longest, left))} tokens, and the holes have "
                f"{sum(row.editable)}; make more room"
            )
        behind = set()
        while left:
            word, *left = left
            place, ids = self._choose(space, word, [self._longest(other) for other in left], seed + len(left))
            space = space.put(place, ids)
            behind.add(place + len(ids))
        carrying = [carries(self.tokenizer.token_bytes(i)) for i in range(self.tokenizer.vocab_size)]
        return space.row, WholeWords(frozenset(behind), torch.tensor(carrying))

    def _given(self, row: Row) -> str:
        """The text around the holes; each hole shows as a letter, since it may carry on the word beside it."""
        pieces = []
        for editable, run in groupby(zip(row.editable, row.tokens, strict=True), key=lambda pair: pair[0]):
            pieces.append("x" if editable else self.tokenizer.decode(token for _, token in run))
        return "".join(pieces)

    def _longest(self, word: str) -> int:
        return max(len(self.tokenizer.encode(form, continued=True)) for form in (word, " " + word))

    def _choose(self, space: "_Space", word: str, others: Sequence[int], seed: int) -> tuple[int, list[int]]:
        """A place for the word and its tokens there, drawn; the other words, of those lengths, fit in afterwards."""
        forms = {bare: self.tokenizer.encode(word if bare else " " + word, continued=True) for bare in (True, False)}
        places = [(place, forms[space.begins(place)]) for place, free in enumerate(space.row.editable) if free]
        places = [(place, ids) for place, ids in places if space.takes(place, ids)]
        places = [(place, ids) for place, ids in places if space.put(place, ids).fits(others)]
        assert places, "what fits first can be put first"
        log_p_LV = self._log_p(space.row, seed)
        score = [sum(float(log_p_LV[place + i, token]) for i, token in enumerate(ids)) for place, ids in places]
        draw_1 = rng.uniform(torch.tensor([seed]), _PLACE)
        return places[int(categorical(torch.tensor([score], dtype=torch.float64), draw_1))]

    @torch.inference_mode()
    def _log_p(self, row: Row, seed: int) -> Tensor:
        """Of every token at every place of the row, its holes being noise, float64 (L, V)."""
        tokens_1L, open_1L = torch.tensor([row.tokens]), torch.tensor([row.editable])
        position_1L = torch.arange(len(row.tokens))[None]
        canvas = Canvas(tokens_1L, position_1L, open_1L, open_1L, torch.ones(1, dtype=torch.float64))
        canvas = self.process.prior(canvas, seeds_B=torch.tensor([seed]))
        hidden_1LD = self.denoiser.encode(
            canvas.tokens_BL.to(self.device),
            where=Where(position_1L.to(self.device), None),
            layout=self.layout,
            t_BQ=torch.ones(position_1L.shape, device=self.device),
        )
        before_L = (position_1L[0] - self.process.shift).clamp(min=0).to(self.device)
        logits_LV = self.denoiser.readout(hidden_1LD[0, before_L]).cpu()
        return self.process.denoised(logits_LV, position_1L[0], canvas).double().log_softmax(dim=-1).clamp(min=-1e6)


@dataclass(frozen=True)
class _Space:
    """A row, and where words fit into it."""

    row: Row
    tokenizer: AnyTokenizer

    def begins(self, place: int) -> bool:
        """Whether a word stands here without a space before it: behind given space, and at the start of the text.

        Unless it brings a space along there, too (`AnyTokenizer.spaced`).
        """
        if place == 0:
            return not self.tokenizer.spaced
        if self.row.editable[place - 1]:
            return False
        before = self.tokenizer.token_bytes(self.row.tokens[place - 1])
        return before.decode(errors="replace")[-1].isspace() if before else not self.tokenizer.spaced

    def takes(self, place: int, ids: Sequence[int]) -> bool:
        """Whether the tokens have room here, and what follows leaves them whole."""
        end = place + len(ids)
        return all(self.row.editable[place:end]) and end <= len(self.row.tokens) and not self._carried(end)

    def put(self, place: int, ids: Sequence[int]) -> "_Space":
        """The row with the tokens given."""
        tokens, editable = list(self.row.tokens), list(self.row.editable)
        tokens[place : place + len(ids)] = ids
        editable[place : place + len(ids)] = [False] * len(ids)
        return _Space(Row(tokens, editable), self.tokenizer)

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether words of these lengths, the longest first, fit into the holes one after the other (first fit)."""
        room, run = [], 0
        for place in range(len(self.row.tokens) + 1):
            if place < len(self.row.tokens) and self.row.editable[place]:
                run += 1
            elif run:
                room.append(run - self._carried(place))
                run = 0
        for length in lengths:
            hole = next((i for i, free in enumerate(room) if free >= length), None)
            if hole is None:
                return False
            room[hole] -= length
        return True

    def _carried(self, place: int) -> bool:
        """Whether given text here would carry on a word that ends before it."""
        if place >= len(self.row.tokens) or self.row.editable[place]:
            return False
        return carries(self.tokenizer.token_bytes(self.row.tokens[place]))


def carries(token: bytes) -> bool:
    """Whether a token carries on the word before it: begins with a letter, a digit or a piece of a character."""
    first = token.decode(errors="replace")[:1]
    return first.isalnum() or first in ("\ufffd", "_")


def holds(text: str, word: str) -> bool:
    """Whether the text holds the word as a whole."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
