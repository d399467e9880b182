"""Answers to many requests of an evaluation: likelihoods and texts, what they took, and a file that keeps them.

An answer depends on (seed, document, sample) and nothing else: neither the batch size, nor the other requests, nor
where an earlier run was stopped, beyond the rounding of the network's arithmetic.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError
from sfumato.evaluate.continuation import Continuation, check_estimator, continuation_nats, passes, sample_stderr
from sfumato.evaluate.greedy import greedy_matches
from sfumato.evaluate.machine import weights_sha256
from sfumato.sample.front import Plan
from sfumato.sample.journal import Journal
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.many import Asked, Many

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and of how much."""


@dataclass(frozen=True)
class How:
    """How likelihoods are measured."""

    estimator: str = "auto"
    """See `evaluate.continuation`."""
    samples: int = 128
    """Random noisings of each text, for a bound."""
    seed: int = 0
    batch: int = 8
    """Sequences in a forward pass, and texts written at a time; changes speed and memory only."""
    greedy: bool = True
    """Find out whether a continuation is what greedy decoding writes; else it counts as not."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name in ("samples", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass
class Cost:
    """What the requests of one kind took."""

    requests: int = 0
    resumed: int = 0
    """Of these, answered by an earlier run, whose forward passes and tokens count here all the same."""
    nfe: int = 0
    """Forward passes, of each request those that it took part in; each random noising is one."""
    tokens: int = 0
    """Scored, or written."""
    seconds: float = 0.0


class Answers:
    """Answers of one model.

    Attributes:
        costs: by the kind of the requests.
        stderrs: of each likelihood so far its standard error as an estimate.
        ways: how many of them were measured in which way.
    """

    def __init__(
        self,
        model: LanguageModel,
        plan: Plan,
        how: How,
        *,
        keep: str | Path | None = None,
        progress: Progress | None = None,
    ):
        """Answers that are still to be given.

        Args:
            model: answers.
            plan: how it writes.
            how: how likelihoods are measured.
            keep: file that keeps every answer as soon as it is there, and from which a run that was stopped goes on.
            progress: see there.

        Raises:
            ValueError: an estimator that is not for this model, or a file of something else, or of a
                run that is under way.
        """
        self.model, self.plan, self.how, self.progress = model, plan, how, progress
        self.estimator = check_estimator(model, how.estimator)
        self.costs: dict[str, Cost] = {}
        self.stderrs: list[float] = []
        self.ways = Counter[str]()
        self.weights = weights_sha256(model)
        measured = {name: value for name, value in asdict(how).items() if name != "batch"}
        self._identity = [self.weights, str(model.dtype), asdict(plan.settings), measured]
        self._journal = Journal(keep, "key") if keep else None
        self._there: dict[str, dict[str, Any]] = {
            line["key"]: line for line in (self._journal.there if self._journal else [])
        }

    def likelihoods(self, kind: str, items: Sequence[Continuation], *, greedy: bool = False) -> list[dict[str, Any]]:
        """Of each continuation `nats` (negative log-likelihood), `stderr` and, if that is asked for, `greedy`."""
        greedy = greedy and self.how.greedy
        found: dict[int, Mapping[str, Any]] = {}
        keys = [self._key(kind, greedy, list(one.before), list(one.tokens), one.noise, one.longest) for one in items]
        order = sorted(range(len(items)), key=lambda i: -len(items[i].before) - len(items[i].tokens))
        for begin in range(0, len(order), self.how.batch):
            part, start = order[begin : begin + self.how.batch], time.perf_counter()
            # All of a batch or nothing, so that a run which goes on makes the very same batches.
            if fresh := any(keys[i] not in self._there for i in part):
                for i, answer in zip(part, self._measured([items[i] for i in part], greedy), strict=True):
                    self._keep(keys[i], answer)
            found |= {i: self._there[keys[i]] for i in part}
            self._count(kind, [found[i] for i in part], 0 if fresh else len(part), time.perf_counter() - start)
            self._show("measuring likelihoods", begin + len(part), len(items))
        self.stderrs += [found[i]["stderr"] for i in range(len(items))]
        self.ways.update(found[i]["way"] for i in range(len(items)))
        return [dict(found[i]) for i in range(len(items))]

    def texts(self, kind: str, asked: Sequence[Asked]) -> list[str]:
        """The completion of each text that is asked for."""
        start = time.perf_counter()
        keys = [
            self._key(kind, list(one.row.tokens), one.row.limit, one.seed, list(one.stops), asdict(one.plan.settings))
            for one in asked
        ]
        missing = [i for i, key in enumerate(keys) if key not in self._there]
        resumed = len(asked) - len(missing)
        todo: Iterator[Asked] = (asked[i] for i in missing)
        written = Many(self.model, self.plan.settings).write(todo, self.how.batch)
        for done, (i, generation) in enumerate(zip(missing, written, strict=True), resumed + 1):
            stats = generation.stats
            self._keep(keys[i], {"text": generation.completion, "nfe": stats.nfe, "tokens": stats.committed})
            self._show("writing answers", done, len(asked))
        answers = [self._there[key] for key in keys]
        self._count(kind, answers, resumed, time.perf_counter() - start)
        return [answer["text"] for answer in answers]

    def close(self) -> None:
        """Bring what is kept to the disk."""
        if self._journal:
            self._journal.close()

    def _measured(self, items: Sequence[Continuation], greedy: bool) -> list[dict[str, Any]]:
        how = self.how
        nats = continuation_nats(
            self.model, items, estimator=how.estimator, samples=how.samples, seed=how.seed, rows=how.batch
        )
        answers: list[dict[str, Any]] = []
        for one, nats_S in zip(items, nats, strict=True):
            whole = len(nats_S) == 1 and self.estimator == "count" and how.samples > 1
            answers.append(
                {
                    "nats": float(nats_S.mean()),
                    "stderr": sample_stderr(nats_S),
                    "way": "all masks" if whole else self.estimator,
                    "nfe": passes(self.model, one, how.estimator, how.samples),
                    "tokens": len(one.tokens),
                    "greedy": False,
                }
            )
        if greedy:
            matches = greedy_matches(self.model, self.plan, items)
            for answer, match in zip(answers, matches, strict=True):
                answer |= {"greedy": match.exact, "nfe": answer["nfe"] + match.nfe}
        return answers

    def _key(self, *parts: Any) -> str:
        return hashlib.sha256(json.dumps([self._identity, *parts], default=str).encode()).hexdigest()[:32]

    def _keep(self, key: str, answer: dict[str, Any]) -> None:
        self._there[key] = {"key": key, **answer}
        if self._journal:
            self._journal.add(self._there[key])

    def _count(self, kind: str, answers: Sequence[Mapping[str, Any]], resumed: int, seconds: float) -> None:
        cost = self.costs.setdefault(kind, Cost())
        cost.requests += len(answers)
        cost.resumed += resumed
        cost.nfe += sum(answer["nfe"] for answer in answers)
        cost.tokens += sum(answer["tokens"] for answer in answers)
        cost.seconds += seconds

    def _show(self, what: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(what, done, total)
