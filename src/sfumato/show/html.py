"""A trace as one HTML file: the text at every step, with what the network thought; to keep, and to look at offline.

The page needs nothing but itself, and its own policy keeps it from loading anything else. Script and style are those
of the server's page, in the folder `viewer`.
"""

import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from sfumato.sample.trace import Commit, Event
from sfumato.show.pieces import harmless, pieces

_MODULES = ("tokens.js", "viewer.js", "page.js")  # in an order in which each follows those that it imports
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
_PART = re.compile(r"\{\{(\w+)\}\}")
_GIVEN, _MASKED, _DRAFT, _COMMITTED = range(4)  # as in STATES of viewer.js


@dataclass
class _Place:
    """What stands at a column, and what the network thought of it."""

    token: int
    state: int
    thought: Commit | None = None
    step: int | None = None


@dataclass
class Recording:
    """Takes down how a row is written: `start` when it begins, then a call for each event, as for a `TerminalView`."""

    token_bytes: Callable[[int], bytes]
    """The bytes of a token id; none for a special token."""
    end_id: int
    """The end-of-text token, behind which nothing is shown."""
    title: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Of each step its number, the forward passes so far, the columns where places came in, and what changed."""
    _places: list[_Place] = field(default_factory=list)
    _shown: list[list[Any]] = field(default_factory=list)

    def start(self, tokens: Sequence[int], editable: Sequence[bool]) -> None:
        """A row begins: its tokens, and which of them are to be written."""
        holes = zip(tokens, editable, strict=True)
        self._places = [_Place(token, _MASKED if hole else _GIVEN) for token, hole in holes]
        self._shown = self._view()
        self._begin, self.steps = self._shown, []

    def __call__(self, event: Event) -> None:
        """Take in what happened."""
        for column in event.reopened:
            self._places[column] = _Place(self._places[column].token, _MASKED)
        for draft in event.drafts:
            self._places[draft.position] = _Place(draft.token, _DRAFT, draft)
        for commit in event.commits:
            self._places[commit.position] = _Place(commit.token, _COMMITTED, commit, event.step)
        before = list(self._shown)
        for column in event.inserted:
            self._places.insert(column, _Place(0, _MASKED))
            before.insert(column, [_MASKED, ""])
        if event.tokens is not None:
            self._finish(event.tokens)
        self._shown = self._view()
        changes = [[i, *now] for i, (was, now) in enumerate(zip(before, self._shown, strict=True)) if was != now]
        inserted = list(event.inserted)
        self.steps.append({"step": event.step, "nfe": event.nfe, "inserted": inserted, "changes": changes})

    @property
    def record(self) -> dict[str, Any]:
        """All of it, as the viewer's script reads it."""
        return {"title": self.title, "start": self._begin, "steps": self.steps}

    def _finish(self, tokens: Sequence[int]) -> None:
        """What was decided without being told, such as the places behind the end."""
        for place, token in zip(self._places, tokens, strict=True):
            if place.state in (_MASKED, _DRAFT) or place.token != token:
                place.token, place.state, place.thought = token, _COMMITTED, None

    def _view(self) -> list[list[Any]]:
        """Every place as the viewer shows it: state, text, probability, entropy, step, runners-up."""
        known = [place.state in (_GIVEN, _COMMITTED) for place in self._places]
        tokens = [place.token for place in self._places]
        end = next((i for i, token in enumerate(tokens) if known[i] and token == self.end_id), len(tokens))
        texts = pieces(tokens[:end], known[:end], self.token_bytes)
        view = [self._seen(place, text) for place, text in zip(self._places, texts, strict=False)]
        return view + [[_COMMITTED, ""]] * (len(tokens) - end)

    def _seen(self, place: _Place, text: str) -> list[Any]:
        if place.state == _DRAFT:
            text = self._alone(place.token)
        if place.thought is None:
            return [place.state, text]
        others = [[self._alone(token), round(p, 4)] for token, p in place.thought.runners_up]
        thought = place.thought
        return [place.state, text, round(thought.probability, 5), round(thought.entropy, 3), place.step, others]

    def _alone(self, token: int) -> str:
        return harmless(self.token_bytes(token).decode("utf-8", "replace"))


def trace_html(recordings: Sequence[Recording], *, title: str) -> str:
    """A page that shows how texts were written, step by step.

    Args:
        recordings: the texts, each with its title; `start` was called on them.
        title: of the page.

    Returns:
        HTML that contains all it needs.
    """
    folder = files("sfumato.show") / "viewer"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    parts = {
        "title": html.escape(title),
        "style": read("viewer.css"),
        "script": "\n".join(_IMPORT.sub("", read(name)) for name in _MODULES),
        "data": _json({"title": title, "traces": [recording.record for recording in recordings]}),
    }
    return _PART.sub(lambda part: parts[part[1]], read("page.html"))


def _json(value: Any) -> str:
    """JSON in ASCII in which nothing can end the script element that holds it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
