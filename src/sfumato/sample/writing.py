"""Texts being written: any number of them through one decoder, the next one joining as soon as another leaves."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sfumato.sample.constraint import Constraint
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.front import Front, Plan
from sfumato.sample.guidance import Guidance
from sfumato.sample.settings import Settings
from sfumato.sample.sliding import Sliding
from sfumato.sample.trace import Event
from sfumato.text.prompt import Row, text_of


@dataclass(frozen=True)
class Stats:
    """What a generation cost. When several texts are written together, time and positions are those of all of them."""

    nfe: int
    """Forward passes that this text took part in."""
    committed: int
    """Tokens written, up to and with the end of the text."""
    tpf: float
    """Committed tokens per forward."""
    seconds: float
    tokens_per_second: float
    positions_evaluated: int
    """Query positions run through the network."""


@dataclass(frozen=True)
class Generation:
    """One written text."""

    text: str
    """All of it, prompt included, cut at the end of the text."""
    completion: str
    """What follows the prompt (infilling: everything from the first hole on)."""
    tokens: tuple[int, ...]
    """The canvas row; of a text that a stop string ended, as far as it was written then."""
    finish_reason: str
    """stop = the model or a stop string ended the text, or it is all that its constraint asks for; length = the canvas
    is full."""
    seed: int
    settings: Settings
    stats: Stats


@dataclass(frozen=True)
class Start:
    """The beginning of a row, for those who watch."""

    request: int
    tokens: tuple[int, ...]
    editable: tuple[bool, ...]


@dataclass
class Text:
    """A text that is being written."""

    number: int
    """Its place among all texts."""
    row: Row
    plan: Plan
    seed: int
    sliding: Sliding
    prompt: int
    """How many tokens stand before the first hole that was asked for."""
    guidance: tuple[Guidance, ...] = ()
    stops: tuple[str, ...] = ()
    """Strings at which the completion ends; it does not hold them."""
    steps: int = 0
    nfe: int = 0
    """Both of the windows that are finished; and the passes that placed keywords."""
    seen: list[int] = field(default_factory=list)
    """For stop strings: the row as far as its commits were told."""
    settled: int = 0
    """How many places of `seen` were searched for stop strings."""
    begun: tuple[float, int] = (0.0, 0)
    """Seconds and positions that the run had taken when this text joined it."""

    def cut(self, completion: str) -> str | None:
        """The completion up to its first stop string; None where it holds none."""
        found = [at for stop in self.stops if (at := completion.find(stop)) >= 0]
        return completion[: min(found)] if found else None


class Writing:
    """A run of the decoder over some texts."""

    def __init__(
        self,
        front: Front,
        decoder: Decoder,
        *,
        on_event: Callable[[Event], None] | None = None,
        drafts: bool = False,
        constraint: Constraint | None = None,
    ):
        """A run that has not begun.

        Args:
            front: of the model.
            decoder: of the model.
            on_event: told every step, in places and counts of whole texts.
            drafts: tell guesses for open places too.
            constraint: what every text obeys.
        """
        self.front, self.decoder, self.on_event = front, decoder, on_event
        self.drafts, self.constraint = drafts, constraint
        self.end_id, self.seconds = front.config.tokens.end, 0.0  # of decoding alone, not of whoever watches

    def text(self, number: int, row: Row, plan: Plan, seed: int) -> Text:
        """A text of which nothing is written."""
        sliding = Sliding.over(row, self.front.context, plan.block or 1, len(self.front.tokenizer.begin))
        return Text(number, row, plan, seed, sliding, row.first_written)

    def finished(self, texts: Iterable[Text], together: int) -> Iterator[Text]:
        """Write them, `together` at a time; each is given when it is done, and the next one takes its place."""
        waiting, running = iter(texts), dict[int, Text]()
        while True:
            while len(running) < together and (text := next(waiting, None)) is not None:
                text.begun = self.seconds, self.decoder.counters.positions
                running[self.decoder.add(self.request(text))] = text
            if not running:
                return
            start = time.perf_counter()
            events = self.decoder.step()
            self.seconds += time.perf_counter() - start
            for event in events:
                text = running[event.request]
                if self._take(text, event):
                    del running[event.request]
                    yield text
                elif event.done:
                    del running[event.request]
                    running[self.decoder.add(self.request(text))] = text

    def request(self, text: Text) -> Request:
        """The next window of a text."""
        tokens, editable = text.sliding.window()
        return text.plan.request(
            tokens,
            editable,
            steps=text.sliding.share(text.plan.steps(text.row.room)),
            seed=text.sliding.seed(text.seed),
            trace=self.on_event is not None or bool(text.stops),
            drafts=self.drafts,
            gaps=text.row.gaps,
            limit=text.row.limit,
            guidance=text.guidance,
            constraint=self.constraint,
        )

    def _take(self, text: Text, event: Event) -> bool:
        """Note what happened, and tell it in places and counts of the whole text; True when the text is done."""
        shown = text.sliding.placed(event)
        steps, nfe, tokens = text.steps + event.step, text.nfe + event.nfe, None
        if event.tokens is not None:
            text.steps, text.nfe, text.seen = steps, nfe, []
            if text.sliding.take(event.tokens, self.end_id):
                tokens = tuple(text.sliding.tokens)
            elif self._cuts(text, text.sliding.tokens[: text.sliding.filled]):
                tokens = tuple(text.sliding.tokens[: text.sliding.filled])
        elif text.stops and not text.row.gaps and self._stopped(text, shown):
            self.decoder.cancel(event.request)
            text.steps, text.nfe, tokens = steps, nfe, tuple(text.seen[: text.settled])
        if tokens is not None:
            text.sliding.tokens, text.sliding.filled = list(tokens), len(text.row.tokens)
        if self.on_event:
            self.on_event(replace(shown, request=text.number, step=steps, nfe=nfe, tokens=tokens))
        return tokens is not None

    def _stopped(self, text: Text, event: Event) -> bool:
        """Whether a stop string stands in what will not change any more."""
        text.seen = text.seen or list(text.sliding.tokens)
        for commit in event.commits:
            text.seen[commit.position] = commit.token
        if event.settled <= text.settled:
            return False
        text.settled = event.settled
        return self._cuts(text, text.seen[: text.settled])

    def _cuts(self, text: Text, tokens: Sequence[int]) -> bool:
        """Whether the text ends at a stop string in these tokens, its first ones."""
        return bool(text.stops) and text.cut(text_of(self.front.tokenizer, tokens, text.prompt)) is not None

    def generation(self, text: Text) -> Generation:
        """A text that is done."""
        tokens, tokenizer = tuple(text.sliding.tokens), self.front.tokenizer
        written = tokens[text.prompt :]  # earlier turns of a conversation have ends too
        ended = self.end_id in written
        whole = ended if self.constraint is None else self.constraint.complete(written)
        last = text.prompt + written.index(self.end_id) + 1 if ended else len(tokens)
        committed = last - text.row.editable.count(False) if text.row.gaps else sum(text.row.editable[:last])
        completion = text_of(tokenizer, tokens, text.prompt)
        if (cut := text.cut(completion)) is None:
            cut, whole_text = completion, text_of(tokenizer, tokens)
        else:
            whole, whole_text = True, text_of(tokenizer, tokens[: text.prompt]) + cut
        seconds = self.seconds - text.begun[0]
        return Generation(
            text=whole_text,
            completion=cut,
            tokens=tokens,
            finish_reason="stop" if whole else "length",
            seed=text.seed,
            settings=text.plan.settings,
            stats=Stats(
                nfe=text.nfe,
                committed=committed,
                tpf=round(committed / max(1, text.nfe), 3),
                seconds=round(seconds, 4),
                tokens_per_second=round(committed / seconds, 1),
                positions_evaluated=self.decoder.counters.positions - text.begun[1],
            ),
        )


def seed_of(seed: int, place: int) -> int:
    """The seed of the text with this place among texts that share a seed; after the largest comes 0."""
    return (seed + place) % 2**63


def check_stops(stops: str | Sequence[str]) -> tuple[str, ...]:
    """Stop strings: one or several (ValueError for an empty one)."""
    found = (stops,) if isinstance(stops, str) else tuple(stops) if isinstance(stops, Sequence) else (stops,)
    if not all(isinstance(stop, str) and stop for stop in found):
        raise ValueError(f"stop: expected a text or a list of texts, none of them empty, got {stops!r}")
    return found
