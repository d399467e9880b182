"""What a client sees of a row that is being written: settled text as deltas, and the whole present view."""

import math
import re
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.sample.constraint import Constraint
from sfumato.sample.trace import Commit, Event
from sfumato.text.interface import AnyTokenizer
from sfumato.text.prompt import Row, goes_on

MASKED = "░"
_SENTENCE = re.compile(r"[.!?…][\"'”’»)\]]*\s|[。！？।]|\n")
NO_LOGPROB = -9999.0
"""What OpenAI sends for a token of no probability."""


@dataclass
class Place:
    """One place of a row."""

    token: int
    state: str
    """given, masked, draft or committed."""
    thought: Commit | None = None
    """What the network thought when the token was committed, or thinks of the draft."""
    step: int = 0


class RowView:
    """Follows one row by its events.

    Attributes:
        places: the row as it is now.
        text: the settled text of the completion: whole characters, cut at the end of the text and at a stop string.
        finish: None while it is written; then stop or length.
        step: the row's steps so far.
        nfe: forward passes that it took part in.
        positions: places run through the network for it.
    """

    def __init__(
        self,
        row: Row,
        tokenizer: AnyTokenizer,
        *,
        blocks: Sequence[int] = (),
        tail: int = 0,
        stops: Sequence[str] = (),
        constraint: Constraint | None = None,
    ):
        """The view of a row before its first step.

        Args:
            row: as laid out.
            tokenizer: gives the text.
            blocks: for each place the number of its block, -1 where nothing is written.
            tail: given tokens at the row's end that are no part of the completion.
            stops: texts at which the completion ends; it does not hold them.
            constraint: what the completion satisfies; it ends where that is complete, even without an end token.
        """
        self.tokenizer, self.tail, self.stops = tokenizer, tail, tuple(stops)
        self.places = [
            Place(token, "masked" if open_ else "given") for token, open_ in zip(row.tokens, row.editable, strict=True)
        ]
        self.first = row.first_written
        self._constraint = constraint
        self._blocks = blocks
        self.text = ""
        self.finish: str | None = None
        self.step = self.nfe = self.positions = 0
        self._given = row.editable.count(False)
        self._pieces = _Pieces(tokenizer, begins=not goes_on(tokenizer, row.tokens, self.first))
        self._upto = self.first  # places that are in the text
        self._ended = False
        self._sent = 0  # characters that were sent
        self._tokens: list[tuple[Place, int]] = []  # of the text, each with the character where it begins
        self._told = 0  # of these, how many were sent

    @property
    def prompt_tokens(self) -> int:
        """Tokens that were given."""
        return self._given

    @property
    def completion_tokens(self) -> int:
        """Tokens that were written, up to and with the end of the text."""
        return sum(place.state != "given" for place in self.places[: self._upto])

    def tokens(self) -> tuple[int, ...]:
        """Ids of the completion's tokens, without the end."""
        return tuple(place.token for place, _ in self._tokens)

    def take(self, event: Event) -> None:
        """Follow one step."""
        if self.finish:
            return
        self.step, self.nfe, self.positions = event.step, event.nfe, event.positions
        for position in event.reopened:
            self.places[position].state = "masked"
        for draft in event.drafts:
            self.places[draft.position] = Place(draft.token, "draft", draft, event.step)
        for commit in event.commits:
            self.places[commit.position] = Place(commit.token, "committed", commit, event.step)
        for position in event.inserted:
            self.places.insert(position, Place(self.tokenizer.mask_id, "masked"))
        if event.tokens is not None:
            self._finish(event.tokens)
        self._settle(len(self.places) if event.done else event.settled, event.done)

    def delta(self) -> tuple[str, list[Place]]:
        """Text that was not sent yet and will not change, and the tokens that begin in it."""
        hold = 0 if self.finish else self._held_back()
        upto = max(self._sent, len(self.text) - hold)
        piece, self._sent = self.text[self._sent : upto], upto
        told = self._told
        while self._told < len(self._tokens) and self._tokens[self._told][1] < upto:
            self._told += 1
        return piece, [place for place, _ in self._tokens[told : self._told]]

    def has_sentence(self) -> bool:
        """Whether a sentence of the settled text is complete."""
        return bool(self.finish and self.text) or _SENTENCE.search(self.text) is not None

    def token_text(self, token: int) -> str:
        """What a token stands for by itself."""
        return self.tokenizer.token_bytes(token).decode(errors="replace")

    def _finish(self, tokens: Sequence[int]) -> None:
        """Take the finished row; what was closed unseen, after an end of text, is there now."""
        places = self.places + [Place(0, "masked") for _ in tokens[len(self.places) :]]
        for place, token in zip(places, tokens, strict=True):
            if place.state != "given":
                place.thought = place.thought if place.token == token and place.state == "committed" else None
                place.token, place.state, place.step = token, "committed", place.step or self.step
        self.places = places

    def _settle(self, settled: int, done: bool) -> None:
        """Decode what is settled, and look for the end."""
        end = len(self.places) - self.tail
        while self._upto < min(settled, end) and not self._ended:
            place = self.places[self._upto]
            self._upto += 1
            if place.token == self.tokenizer.end_id:
                self._ended = True
                break
            self._tokens.append((place, len(self.text)))
            self.text += self._pieces.of(place.token)
        if done:
            self.text += self._pieces.rest()
            self.finish = "stop" if self._complete() else "length"
        self._cut()

    def _complete(self) -> bool:
        """Whether the finished text has an end or stands in closed text; or, whatever it ends in, is as constrained."""
        written = [place.token for place in self.places[self.first :]]  # earlier turns have ends too
        if self._constraint:
            return self._constraint.complete(written[: len(written) - self.tail])
        return self._ended or self.tokenizer.end_id in written

    def _cut(self) -> None:
        """End the text before the first stop string."""
        longest = max(map(len, self.stops), default=0)
        start = max(0, self._sent - longest)
        found = [at for stop in self.stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text, self.finish = self.text[: min(found)], "stop"
            kept = [token for token in self._tokens if token[1] < len(self.text)]
            self._upto -= len(self._tokens) - len(kept) + self._ended
            self._tokens = kept

    def _held_back(self) -> int:
        """Characters at the end of the text with which a stop string might begin."""
        ending = self.text[self._sent :]
        sizes = (n for stop in self.stops for n in range(1, len(stop)) if ending.endswith(stop[:n]))
        return max(sizes, default=0)

    def shown(self, *, whole: bool = False) -> dict[str, Any]:
        """The present view, as `diffusion` in a stream: replaces the one before.

        Args:
            whole: of all places, also those that were given and those behind the end of the text.
        """
        before = [place.token for place in self.places[: 0 if whole else self.first]]
        pieces = _Pieces(self.tokenizer, begins=not goes_on(self.tokenizer, before, len(before)))
        text, masked, tokens, chances = "", [], [], []
        ended, last = False, len(self.places) - (0 if whole else self.tail)
        for position in range(0 if whole else self.first, last):
            place, piece = self.places[position], ""
            if ended:
                pass
            elif place.state in ("masked", "draft"):
                text += pieces.rest()
                if masked and masked[-1][1] == len(text):
                    masked[-1][1] += 1
                else:
                    masked.append([len(text), len(text) + 1])
                text += MASKED
                piece = self.token_text(place.token) if place.state == "draft" else ""
            elif place.token == self.tokenizer.end_id:
                ended = True
            else:
                piece = pieces.of(place.token)
                text += piece
                chances += [place.thought.probability] if place.thought else []
            if ended and not whole:
                break
            tokens.append(self._told_of(position, place, piece, ended))
        return {
            "block": self._block(),
            "step": self.step,
            "nfe": self.nfe,
            "prompt_length": self.first,
            "text": text + pieces.rest(),
            "masked": masked,
            "confidence": round(sum(chances) / len(chances), 4) if chances else None,
            "tokens": tokens,
        }

    def _block(self) -> int:
        """Which of the row's blocks is written, from 0; rows that grow have one."""
        if len(self._blocks) != len(self.places):
            return 0
        open_ = (n for n, place in zip(self._blocks, self.places, strict=True) if place.state in ("masked", "draft"))
        numbers = sorted({number for number in self._blocks if number >= 0})
        return numbers.index(min(open_, default=numbers[-1]))

    def _told_of(self, position: int, place: Place, piece: str, ended: bool) -> dict[str, Any]:
        hidden = ended and place.state != "given"  # nothing comes behind the end of the text
        told: dict[str, Any] = {"position": position, "text": piece, "state": "committed" if hidden else place.state}
        if thought := place.thought if place.state != "masked" else None:
            others = [[self.token_text(token), round(p, 4)] for token, p in thought.runners_up]
            told |= {"probability": round(thought.probability, 4), "entropy": round(thought.entropy, 4)}
            told |= {"step": place.step, "runners_up": others}
        return told


class _Pieces:
    """The text that tokens add one after the other: whole characters only."""

    def __init__(self, tokenizer: AnyTokenizer, *, begins: bool):
        """Whether the first of them `begins` a text."""
        self._tokenizer, self._begins = tokenizer, begins
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def of(self, token: int) -> str:
        """What the next token adds."""
        raw = self._tokenizer.token_bytes(token)
        if self._begins and raw:
            raw, self._begins = self._tokenizer.first_bytes(token), False
        return self._decoder.decode(raw)

    def rest(self) -> str:
        """What is left of a character that is not whole; what comes next goes on with a text."""
        text, self._begins = self._decoder.decode(b"", final=True), False
        self._decoder.reset()
        return text


def logprob(probability: float) -> float:
    """In nats, never infinite: JSON has no word for that."""
    return math.log(probability) if probability > 0 else NO_LOGPROB


def chat_logprobs(view: RowView, places: Sequence[Place], best: int) -> dict[str, Any]:
    """Logprobs as chat has them: at the step that committed the token, so their sum is *not* that of a sequence."""
    return {"content": [_chat_logprob(view, place, best) for place in places], "refusal": None}


def _chat_logprob(view: RowView, place: Place, best: int) -> dict[str, Any]:
    def entry(token: int, chance: float) -> dict[str, Any]:
        raw = view.tokenizer.token_bytes(token)
        return {"token": raw.decode(errors="replace"), "logprob": logprob(chance), "bytes": list(raw)}

    return {
        **entry(place.token, place.thought.probability if place.thought else 0.0),
        "top_logprobs": [entry(token, chance) for token, chance in _best(place, best)],
    }


def completion_logprobs(view: RowView, places: Sequence[Place], best: int, offset: int) -> dict[str, Any]:
    """Logprobs as completions have them; see `chat_logprobs`. `offset`: characters before the first of them."""
    offsets, texts = [], [view.token_text(place.token) for place in places]
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [logprob(place.thought.probability) if place.thought else None for place in places],
        "top_logprobs": [{view.token_text(token): logprob(p) for token, p in _best(place, best)} for place in places],
        "text_offset": offsets,
    }


def _best(place: Place, best: int) -> list[tuple[int, float]]:
    """The most probable tokens at a place, best first."""
    if not place.thought:
        return []
    seen = [(place.token, place.thought.probability), *place.thought.runners_up]
    return sorted(seen, key=lambda one: -one[1])[:best]
