"""Trace events: what happened in a step, for the terminal view, reports and servers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Commit:
    """One position that became text."""

    position: int
    """Column of the canvas."""
    token: int
    probability: float
    """What the network gave this token, before temperature and filters."""
    entropy: float
    """Of the network's distribution there, in nats."""
    runners_up: tuple[tuple[int, float], ...]
    """The most probable other tokens, with their probabilities, best first."""


@dataclass(frozen=True)
class Event:
    """One step of one row."""

    request: int
    """What `Decoder.add` returned."""
    step: int
    """The row's own steps so far, from 1."""
    nfe: int
    """Forward passes that the row took part in so far."""
    commits: tuple[Commit, ...]
    """Empty unless the request asked for a trace."""
    tokens: tuple[int, ...] | None = None
    """The finished row, on its last event only."""
    inserted: tuple[int, ...] = ()
    """Where rows grow: columns of the row, after this step, at which new open positions stand; ascending. The columns
    of `commits` are from before: who follows a row writes them, then inserts at these columns one after the other."""
    drafts: tuple[Commit, ...] = ()
    """The network's present guess for places that were looked at and stay open, if the request asked for drafts."""
    reopened: tuple[int, ...] = ()
    """Columns of written text that a sampler has opened again."""
    settled: int = 0
    """Leading places of the row that no later step will change."""
    positions: int = 0
    """Query positions that were run for the row so far, without padding."""

    @property
    def done(self) -> bool:
        """Whether this is the row's last event."""
        return self.tokens is not None
