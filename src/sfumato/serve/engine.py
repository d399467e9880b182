"""The engine: decodes the rows of many requests together, step by step, for several models.

Rows join and leave at any step. It is synchronous and knows nothing of processes, HTTP or text; `serve.worker` runs it.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import count

import numpy as np
from torch import Tensor

from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.embedding import embedding_steps
from sfumato.sample.influence import Influence, influence_steps
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.prefix import PrefixStore
from sfumato.sample.trace import Event

_OWNERS = 1024  # of which it is remembered when they were served last

_FAILED = "the engine failed at this request; try again"

log = logging.getLogger(__name__)
ModelKey = tuple[str, str]  # name and version


@dataclass(frozen=True)
class Job:
    """Rows that belong together, for one model."""

    id: str
    model: str
    version: str
    """Of the model that the rows were made for."""
    rows: tuple[Request, ...]
    owner: str = ""
    """Who shares the rows fairly with other owners."""


@dataclass(frozen=True)
class Probe:
    """A question to the network alone: how much each visible token changes the probability of one of them."""

    id: str
    model: str
    version: str
    tokens: tuple[int, ...]
    place: int
    owner: str = ""


@dataclass(frozen=True)
class Reading:
    """Texts to embed: tokens of each, without special ones."""

    id: str
    model: str
    version: str
    texts: tuple[tuple[int, ...], ...]
    dimensions: int | None = None
    owner: str = ""


Question = Probe | Reading
"""What is answered without writing anything."""


@dataclass(frozen=True)
class Update:
    """News of one row of a job; the last has an event that is done, an answer or an error."""

    job: str
    row: int = 0
    event: Event | None = None
    answer: Influence | np.ndarray | None = None
    """To a question; of a reading float32, a row for each text."""
    error: str = ""
    """One line for the user; the row is gone."""
    fault: bool = False
    """The error is ours, not the user's."""

    @property
    def last(self) -> bool:
        """Whether nothing more comes of this row."""
        return self.event is None or self.event.done


@dataclass
class Stats:
    """Work done since the start."""

    forwards: int = 0
    positions: int = 0
    """Query positions run, padding included."""
    logits: int = 0
    seconds: float = 0.0
    """Inside the network."""
    prefix_tokens: int = 0
    """Prompt tokens whose keys and values came from an earlier request."""
    batch: Counter[int] = field(default_factory=Counter)
    """Steps by how many rows took part."""

    def __add__(self, other: "Stats") -> "Stats":
        """The work of both."""
        return Stats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Engine:
    """Models by name and version, rows that run, and rows that wait for one of `rows` places."""

    def __init__(self, *, rows: int = 8, batch_invariant: bool = False, prefix_bytes: int = 1 << 28):
        """An engine without a model.

        Args:
            rows: how many rows run at once, all models together.
            batch_invariant: every row runs by itself, so that its arithmetic cannot depend on others; slower.
            prefix_bytes: what each model keeps of finished rows for requests that begin alike; 0 = nothing.
        """
        self.rows, self._alone, self._prefix_bytes = rows, batch_invariant, prefix_bytes
        self._lanes: dict[ModelKey, _Lane] = {}
        self._waiting: dict[str, deque[tuple[Job, int]]] = {}  # by owner
        self._questions: deque[tuple[Question, Iterator[Influence | Tensor | None]]] = deque()
        self._served: dict[str, int] = {}  # when an owner's last row began, in rows of all owners
        self._clock = count(1)
        self._past = Stats()  # of models that are gone

    def load(self, name: str, version: str, model: LanguageModel) -> None:
        """Add a model; one of the same name and another version goes on with its rows until `retire`."""
        if lane := self._lanes.get((name, version)):  # it came back before its last row was done
            lane.retired = False
            return
        self._lanes[name, version] = _Lane(model, self._alone, PrefixStore(0 if self._alone else self._prefix_bytes))

    def retire(self, name: str, version: str) -> None:
        """No more rows come for this model: it goes when its last row is done."""
        if lane := self._lanes.get((name, version)):
            lane.retired = True
            self._sweep()

    def submit(self, job: Job | Question) -> list[Update]:
        """Queue the rows of a job; gives an error for each where the model is unknown."""
        if (job.model, job.version) not in self._lanes:
            rows = range(len(job.rows) if isinstance(job, Job) else 1)
            return [Update(job.id, i, error=f"model {job.model!r} is not loaded") for i in rows]
        model = self._lanes[job.model, job.version].model
        if isinstance(job, Probe):
            self._questions.append((job, influence_steps(model, job.tokens, job.place)))
        elif isinstance(job, Reading):
            self._questions.append((job, embedding_steps(model, job.texts, dimensions=job.dimensions)))
        else:
            queue = self._waiting.setdefault(job.owner, deque())
            queue.extend((job, i) for i in range(len(job.rows)))
        return []

    def cancel(self, job_id: str, row: int | None = None) -> None:
        """Drop a job, or one row of it, waiting or running; what is unknown is ignored."""

        def meant(job: str, place: int) -> bool:
            return job == job_id and row in (None, place)

        for owner, queue in list(self._waiting.items()):
            left = deque((job, i) for job, i in queue if not meant(job.id, i))
            self._waiting[owner] = left
            if not left:
                del self._waiting[owner]
        self._questions = deque(one for one in self._questions if not meant(one[0].id, 0))
        for lane in self._lanes.values():
            lane.cancel([key for key, running in lane.running.items() if meant(running.job.id, running.row)])
        self._sweep()

    @property
    def running(self) -> int:
        """Rows that take part in steps."""
        return sum(len(lane.running) for lane in self._lanes.values())

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.queued or self._questions)

    def step(self) -> list[Update]:
        """One step of every running row, after those that wait have taken the free places."""
        updates = list(self._admit())
        if self._questions:
            updates += self._answer()
        for lane in list(self._lanes.values()):
            updates += lane.step()
        self._sweep()
        return updates

    def stats(self) -> Stats:
        """Everything done so far, all models together."""
        return sum((lane.stats() for lane in self._lanes.values()), self._past)

    def _admit(self) -> Iterator[Update]:
        """Fill the free places: the owner with the fewest running rows first, of equals who has waited longest."""
        held = Counter(running.job.owner for lane in self._lanes.values() for running in lane.running.values())
        free = self.rows - held.total()
        while free > 0 and self._waiting:
            owner = min(self._waiting, key=lambda name: (held[name], self._served.get(name, 0)))
            job, row = self._waiting[owner].popleft()
            if not self._waiting[owner]:
                del self._waiting[owner]
            try:
                self._lanes[job.model, job.version].add(job, row)
            except Exception as error:
                yield _refused(job.id, row, error)
                continue
            held[owner] += 1
            self._served[owner] = next(self._clock)
            free -= 1
        if len(self._served) > _OWNERS:  # those that have nothing here now are as good as new
            self._served = {
                owner: when for owner, when in self._served.items() if held[owner] or owner in self._waiting
            }

    def _answer(self) -> list[Update]:
        """One forward for the first of those who ask; the others take turns with it."""
        question, steps = self._questions.popleft()
        try:
            found = next(steps)
        except Exception as error:
            return [_refused(question.id, 0, error)]
        if found is None:
            self._questions.append((question, steps))
            return []
        return [Update(question.id, answer=found.numpy() if isinstance(found, Tensor) else found)]

    def _sweep(self) -> None:
        """Let go of models that are retired and have nothing left to do."""
        needed = {(job.model, job.version) for queue in self._waiting.values() for job, _ in queue}
        needed |= {(asked.model, asked.version) for asked, _ in self._questions}
        for key, lane in list(self._lanes.items()):
            if lane.retired and not lane.running and key not in needed:
                self._past += lane.stats()
                del self._lanes[key]


@dataclass(frozen=True)
class _Running:
    """Where a row's events belong."""

    job: Job
    row: int


class _Lane:
    """One model and the rows that it writes."""

    def __init__(self, model: LanguageModel, alone: bool, prefixes: PrefixStore):
        self.model, self.alone, self.prefixes = model, alone, prefixes
        self.retired = False
        self.running: dict[tuple[int, int], _Running] = {}  # by number of the decoder and of its request
        self.batch: Counter[int] = Counter()
        self._past = Stats()
        self._decoders: dict[int, Decoder] = {}
        self._numbers = count()

    def add(self, job: Job, row: int) -> None:
        """Begin a row. Raises ValueError if the decoder cannot write it."""
        if self.alone or not self._decoders:
            number = next(self._numbers)
            self._decoders[number] = self.model.decoder(prefixes=self.prefixes)
        else:
            number = next(iter(self._decoders))
        self.running[number, self._decoders[number].add(job.rows[row])] = _Running(job, row)

    def cancel(self, keys: list[tuple[int, int]]) -> None:
        """Drop rows."""
        for number, request in keys:
            del self.running[number, request]
            self._decoders[number].cancel(request)
        self._tidy()

    def step(self) -> list[Update]:
        """One step of every decoder that has rows."""
        updates = []
        for number, decoder in list(self._decoders.items()):
            rows = [key for key in self.running if key[0] == number]
            if not rows:
                continue
            self.batch[len(rows)] += 1
            try:
                events = decoder.step()
            except Exception:  # one broken batch must not end the server
                log.exception("a step failed; its %d rows are lost", len(rows))
                updates += [self._lost(key) for key in rows]
                self._forget(number)
                continue
            for event in events:
                key = number, event.request
                running = self.running.pop(key) if event.done else self.running[key]
                updates.append(Update(running.job.id, running.row, event))
        self._tidy()
        return updates

    def stats(self) -> Stats:
        """Work done for this model."""
        done = Stats(prefix_tokens=self.prefixes.reused, batch=self.batch)
        return sum((_work(decoder) for decoder in self._decoders.values()), self._past + done)

    def _lost(self, key: tuple[int, int]) -> Update:
        running = self.running.pop(key)
        return Update(running.job.id, running.row, error=_FAILED, fault=True)

    def _tidy(self) -> None:
        """Decoders of single rows go with their row."""
        if self.alone:
            for number in self._decoders.keys() - {key[0] for key in self.running}:
                self._forget(number)

    def _forget(self, number: int) -> None:
        self._past += _work(self._decoders.pop(number))


def _refused(job: str, row: int, error: Exception) -> Update:
    """What cannot begin is the user's mistake if a ValueError says so, else ours; it ends neither the others nor us."""
    if isinstance(error, ValueError):
        return Update(job, row, error=str(error))
    log.error("a request cannot begin", exc_info=error)
    return Update(job, row, error=_FAILED, fault=True)


def _work(decoder: Decoder) -> Stats:
    counters = decoder.counters
    return Stats(counters.forwards, counters.positions, counters.logits, counters.seconds)
