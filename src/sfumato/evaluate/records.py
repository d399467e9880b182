"""How probable each record of a dataset is: the negative log-likelihood of its text, or an upper bound on it.

A record is measured by itself: its noise is a function of (seed, its number among all, sample) alone, so that neither
its neighbours nor who measures them matter beyond the rounding of the arithmetic. A text that is longer than the
context is cut, and each piece begins as a text; of a prompt with a response the response alone counts.

Shape letters: S samples of a text.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch

from sfumato.config import Source
from sfumato.data.cache import Encoded, Encoder, Plain
from sfumato.data.document import Report, document_of, fault
from sfumato.data.records import from_record
from sfumato.evaluate.continuation import Continuation, continuation_nats, sample_stderr
from sfumato.process import Autoregressive
from sfumato.sample.journal import Journal, OtherRun
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.records import Record

MARK = "likelihood"  # the key of what a record gains
TOGETHER = 16  # forward passes between two times that something is written
_PIECES = 1 << 40  # between the noise of a record's first piece and its next
SUMS = ("nats", "tokens", "bytes", "nats2", "tokens2", "bytes2", "nats_tokens", "nats_bytes")


@dataclass(frozen=True)
class RecordLikelihood:
    """What a model thinks of one text."""

    kind: str
    """exact, or bound: the true value is at most this."""
    nats: float
    """Of the whole text, its end included."""
    stderr: float
    """Standard error of `nats` from the random masks; 0 where there were none."""
    tokens: int
    bytes: int
    """UTF-8, of what counts."""
    nats_per_token: float
    bits_per_byte: float
    """Does not depend on the tokenizer."""
    perplexity: float
    """By token; of a bound an upper bound."""


class Scorer:
    """Measures records, one after the other, into a journal."""

    def __init__(
        self,
        model: LanguageModel,
        source: Source,
        *,
        chat: Encoder | None = None,
        samples: int = 8,
        seed: int = 0,
        rows: int = 16,
        on_error: str = "stop",
    ):
        """For one model.

        Args:
            model: diffusion or autoregressive.
            source: which keys of a record hold its text, or its prompt and response; its path does not matter.
            chat: how conversations, and pairs of prompt and response, become tokens; None = as in plain text.
            samples: random noisings of each text; where nothing is random there are none.
            seed: of the noise.
            rows: sequences in a forward pass; changes memory and speed only.
            on_error: stop, or skip: say in a record's place why it has no likelihood.
        """
        self._model, self._source, self._chat, self._on_error = model, source, chat, on_error
        self._samples, self._seed, self._rows = samples, seed, rows
        self._exact = isinstance(model.process, Autoregressive)
        version = model.front.version() if model.path else ""
        settings = [source.field, source.prompt, source.response, chat.key if chat else "", samples, seed]
        self._about = [version, str(model.dtype), *settings]

    def __call__(self, records: Iterable[Record], journal: Journal) -> dict[str, float]:
        """Measure what the journal lacks.

        Args:
            records: of which the journal holds the first ones' likelihoods.
            journal: where records and likelihoods go, in order.

        Returns:
            What `counts` counts, of all records.

        Raises:
            ValueError: a record without a text, where that ends the run, or a journal of another run.
        """
        records = iter(records)
        for number, there in enumerate(journal.there, 1):
            record = next(records, None)
            if record is None or (there[MARK] or {}).get("made") != self._made(record):
                raise OtherRun.at(f"{journal.path}:{number}")
        done = counts(journal.there)
        while group := list(islice(records, max(1, TOGETHER * self._rows // self._samples))):
            for record, found in zip(group, self.measure(group), strict=True):
                likelihood = {"error": found} if isinstance(found, str) else asdict(found)
                answer = {**record.content, MARK: {**likelihood, "made": self._made(record)}}
                journal.add(answer)
                add(done, counts([answer]) | {"resumed": 0})
        return done

    def measure(self, records: Sequence[Record]) -> list[RecordLikelihood | str]:
        """The likelihood of each record's text, or why it has none."""
        found: list[RecordLikelihood | str] = []
        pieces, counted = list[Continuation](), list[tuple[int, int]]()  # of each record how many, and the bytes
        for record in records:
            try:
                mine, size = self._pieces(record)
            except ValueError as error:
                if self._on_error == "stop":
                    raise ValueError(f"{record.where}: {error}") from None
                mine, size = [], 0
                found.append(str(error))
            else:
                found.append("")
            pieces += mine
            counted.append((len(mine), size))
        nats = iter(self._nats(pieces))
        parts = iter(pieces)
        for i, (count, size) in enumerate(counted):
            if count:
                found[i] = self._likelihood(list(islice(parts, count)), list(islice(nats, count)), size)
        return found

    def _pieces(self, record: Record) -> tuple[list[Continuation], int]:
        """The record in tokens, cut where it is too long; and the bytes of what counts."""
        if record.error:
            raise ValueError(record.error)
        value = from_record(self._source, record.content)
        if why := fault(value):
            raise ValueError(why)
        document = document_of(value, record.where, Report())
        if document is None:
            raise ValueError("the text is empty")
        encoder = Plain() if isinstance(document, str) or self._chat is None else self._chat
        encoded = list(encoder([document], self._model.tokenizer))
        cut = [piece for one in encoded for piece in self._cut(one)]
        if not cut:
            raise ValueError("nothing to measure: no token that the model could be asked for")
        pieces = [Continuation(*piece, record.number + place * _PIECES) for place, piece in enumerate(cut)]
        return pieces, sum(one.bytes for one in encoded)

    def _cut(self, one: Encoded) -> Iterator[tuple[list[int], list[int]]]:
        """What is read and what is scored of each piece that fits into the context."""
        begin = list(self._model.tokenizer.begin)
        room = self._model.front.context - len(begin)
        for first in range(0, len(one.tokens), room):
            tokens = list(one.tokens[first : first + room])
            read = min(max(one.prompt - first, 0), len(tokens))
            if self._exact and not begin and not read:
                read = 1  # nothing predicts it
            if read < len(tokens):
                yield [*begin, *tokens[:read]], tokens[read:]

    def _nats(self, pieces: Sequence[Continuation]) -> list[torch.Tensor]:
        """nats_S of each; those of like lengths go through the network together."""
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i].before) + len(pieces[i].tokens))
        found: dict[int, torch.Tensor] = {}
        how: dict[str, Any] = {"samples": self._samples, "seed": self._seed, "rows": self._rows}
        for begin in range(0, len(order), self._rows):
            part = order[begin : begin + self._rows]
            found |= zip(part, continuation_nats(self._model, [pieces[i] for i in part], **how), strict=True)
        return [found[i] for i in range(len(pieces))]

    def _likelihood(self, pieces: Sequence[Continuation], found: Sequence[torch.Tensor], size: int) -> RecordLikelihood:
        nats = sum(float(nats_S.mean()) for nats_S in found)
        stderr = math.sqrt(sum(sample_stderr(nats_S) ** 2 for nats_S in found))
        tokens = sum(len(one.tokens) for one in pieces)
        return RecordLikelihood(
            kind="exact" if self._exact else "bound",
            nats=round(nats, 4),
            stderr=round(stderr, 4),
            tokens=tokens,
            bytes=size,
            nats_per_token=round(nats / tokens, 6),
            bits_per_byte=round(nats / math.log(2) / max(1, size), 6),
            perplexity=round(math.exp(min(nats / tokens, 700)), 4),
        )

    def _made(self, record: Record) -> str:
        parts = [*self._about, record.number, record.content, record.error]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def counts(there: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What adds up over records: how many, and the sums that `summary` needs."""
    found = dict.fromkeys(("rows", "resumed", "errors", *SUMS), 0.0)
    for record in there:
        one = record[MARK]
        found["rows"] += 1
        found["resumed"] += 1
        if "error" in one:
            found["errors"] += 1
            continue
        nats, tokens, size = one["nats"], one["tokens"], one["bytes"]
        parts = (nats, tokens, size, nats**2, tokens**2, size**2, nats * tokens, nats * size)
        add(found, dict(zip(SUMS, parts, strict=True)))
    return found


def add(total: dict[str, float], part: Mapping[str, float]) -> None:
    """Add what was counted elsewhere."""
    for name, value in part.items():
        total[name] = total.get(name, 0) + value


@dataclass(frozen=True)
class Mean:
    """A mean over all texts, and where it would lie for all texts of this kind; of a single text nobody knows that."""

    value: float
    stderr: float | None = None
    low: float | None = None
    """End of the 95 % confidence interval."""
    high: float | None = None


def mean(done: Mapping[str, float], per: str, unit: float = 1.0) -> Mean:
    """All nats divided by all `tokens` or `bytes`, from what `counts` counts.

    Args:
        done: the sums.
        per: tokens or bytes.
        unit: nats in one.

    Source: Cochran 1977, "Sampling techniques", section 6.4 (the ratio estimator), records being independent.
    """
    count, total = done["rows"] - done["errors"], max(1, done[per])
    ratio = done["nats"] / total
    if count < 2:
        return Mean(ratio / unit)
    squares = done["nats2"] - 2 * ratio * done[f"nats_{per}"] + ratio**2 * done[f"{per}2"]
    value, stderr = ratio / unit, math.sqrt(count / (count - 1) * max(0.0, squares)) / total / unit
    return Mean(value, stderr, value - 1.96 * stderr, value + 1.96 * stderr)
