"""Live denoising in a terminal: a text comes out of the haze, coloured by how sure the network was.

What was given stands in the terminal's own colour, open positions are haze, and what was written since the last frame
is bright for a moment. One line of figures stands below.
"""

import time
from collections.abc import Callable, Sequence
from random import Random

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sfumato.sample.trace import Commit, Event
from sfumato.show.colour import confidence_colour
from sfumato.show.figures import Figures
from sfumato.show.painter import Painter
from sfumato.show.pieces import HAZE, pieces

FRAME_SECONDS = 1 / 30
MEASURE = 100  # cells; longer lines are hard to read
_BLOCKS = (2, 2, 2, 3, 3, 3, 3, 4)  # of one position: haze is as uneven as words are
_WIDEST, _NEAR = 9, 6  # limits of haze that makes up for its neighbours: blocks, and positions away


class TerminalView:
    """Watches one row at a time: `start` when it begins, then a call for each event.

    A context manager, so that an interrupted view gives the cursor back.
    """

    def __init__(
        self,
        console: Console,
        token_bytes: Callable[[int], bytes],
        end_id: int,
        *,
        title: str = "",
        delay: float = 0.0,
        guesses: bool = False,
    ):
        """A view of rows of one tokenizer.

        Args:
            console: the terminal to draw on.
            token_bytes: the bytes of a token id; none for a special token.
            end_id: the end-of-text token, behind which nothing is shown.
            title: what the figures of a finished text begin with.
            delay: seconds to wait after each step, for the eye; they do not count in tokens/s.
            guesses: where the network has a guess for an open position, show it, dim, in place of haze.
        """
        self.title = title
        self._painter = Painter(console)
        self._basic = console.color_system in ("standard", "windows")
        self._token_bytes, self._end_id, self._delay, self._guesses = token_bytes, end_id, delay, guesses

    def __enter__(self) -> "TerminalView":
        return self

    def __exit__(self, *_: object) -> None:
        self._painter.close()

    def start(self, tokens: Sequence[int], editable: Sequence[bool]) -> None:
        """A row begins: its tokens, and which of them are to be written."""
        self._tokens, self._editable = list(tokens), list(editable)
        self._known = [not hole for hole in editable]
        self._probability: dict[int, float] = {}
        self._fresh: set[int] = set()
        self._guess: dict[int, int] = {}
        self._haze = Random(0).choices(_BLOCKS, k=len(self._tokens))
        self._step = self._nfe = 0
        self._finished = False
        self._seconds = self._watching = 0.0  # in the model, and here
        self._draw()
        self._began = time.perf_counter()

    def __call__(self, event: Event) -> None:
        """Take in what happened, and draw it if it is time to."""
        entered = time.perf_counter()
        self._seconds = entered - self._began - self._watching
        self._step, self._nfe = event.step, event.nfe
        if self._guesses:
            self._guess = {draft.position: draft.token for draft in event.drafts}
        for commit in event.commits:
            self._write(commit)
        for column in event.inserted:
            self._insert(column)
        if event.tokens is not None:
            self._tokens, self._known, self._finished = list(event.tokens), [True] * len(event.tokens), True
            self._fresh.clear()
        if self._finished or self._delay or entered - self._drawn >= FRAME_SECONDS:
            self._draw()
            time.sleep(0 if self._finished else self._delay)
        if self._finished:
            self._painter.close()
        self._watching += time.perf_counter() - entered

    def frame(self, width: int, height: int) -> list[Text]:
        """The lines to show now: the text, and the figures where there is room.

        Args:
            width: cells a line.
            height: the most lines; a finished text is given in full.
        """
        lines = list(self._text().wrap(self._painter.console, min(width, MEASURE), overflow="fold"))
        if self._finished:
            return [*lines, Text(), self._figures().final(width, self.title, self._basic)]
        if height < 4:
            return crop(lines, height)
        return [*crop(lines, height - 2), Text(), self._figures().live(width)]

    def _draw(self) -> None:
        self._painter.paint(self.frame(self._painter.width, self._painter.console.height - 1))
        self._fresh.clear()
        self._drawn = time.perf_counter()

    def _end(self) -> int:
        """Where the text ends, as far as that is known."""
        ends = (i for i, token in enumerate(self._tokens) if self._known[i] and token == self._end_id)
        return next(ends, len(self._tokens))

    def _visible(self) -> list[str]:
        """What each position up to the end of the text looks like."""
        end, shown, spaced = self._end(), [], True
        tokens = [self._guess.get(i, token) for i, token in enumerate(self._tokens[:end])]
        legible = [known or i in self._guess for i, known in enumerate(self._known[:end])]
        for i, piece in enumerate(pieces(tokens, legible, self._token_bytes)):
            shown.append(piece if legible[i] else " " * (not spaced) + HAZE * self._haze[i])
            spaced = shown[i][-1].isspace() if shown[i] else spaced
        return shown

    def _text(self) -> Text:
        """The text with its colours."""
        text = Text()
        for i, piece in enumerate(self._visible()):
            style = "dim" if not self._known[i] else ""
            if i in self._probability:
                style = "bold reverse " * (i in self._fresh) + confidence_colour(self._probability[i], self._basic)
            words = piece.lstrip(" ")
            text.append(" " * (len(piece) - len(words))).append(words, style)
        return text

    def _write(self, commit: Commit) -> None:
        """Take in a token; the haze near it makes up for the difference in width, so that words move little."""
        before = sum(map(cell_len, self._visible()))
        self._tokens[commit.position], self._known[commit.position] = commit.token, True
        self._probability[commit.position] = commit.probability
        self._fresh.add(commit.position)
        if commit.token == self._end_id:
            return
        surplus = sum(map(cell_len, self._visible())) - before
        for distance in range(1, _NEAR + 1):
            for near in (commit.position + distance, commit.position - distance):
                if surplus and 0 <= near < len(self._known) and not self._known[near]:
                    blocks = min(_WIDEST, max(1, self._haze[near] - surplus))
                    surplus -= self._haze[near] - blocks
                    self._haze[near] = blocks

    def _insert(self, column: int) -> None:
        """An open position comes in; what stands from there on moves to the right."""
        self._tokens.insert(column, 0)
        self._known.insert(column, False)
        self._editable.insert(column, True)
        self._haze.insert(column, _BLOCKS[len(self._haze) % len(_BLOCKS)])
        self._probability = {i + (i >= column): p for i, p in self._probability.items()}
        self._fresh = {i + (i >= column) for i in self._fresh}
        self._guess = {i + (i >= column): token for i, token in self._guess.items()}

    def _figures(self) -> Figures:
        holes = [i for i, hole in enumerate(self._editable[: self._end() + 1]) if hole]
        written = sum(self._known[i] for i in holes)
        return Figures(self._step, self._nfe, written, len(holes), self._seconds)


def crop(lines: list[Text], room: int) -> list[Text]:
    """As many lines as there is room for, with the first open position among them and what was written just before."""
    frontier = next((i for i, line in enumerate(lines) if HAZE in line.plain), len(lines))
    first = min(max(0, frontier - room // 3), max(0, len(lines) - room))
    return lines[first : first + room]
