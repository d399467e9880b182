"""Counters for Prometheus, and the same numbers as the page's dashboard wants them."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

LATEST = 1000
"""Requests from which percentiles are taken."""
RECENT_SECONDS = 10
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
TPF = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """What the HTTP layer counts. The workers' own counters are read when somebody asks."""

    def __init__(self) -> None:
        """All at zero, in a registry of their own."""
        registry = self.registry = CollectorRegistry()
        self._committed = Counter("committed_tokens", "Tokens written", ["model"], registry=registry)
        self._embedded = Counter("embedded_tokens", "Tokens read for embeddings", ["model"], registry=registry)
        self._nfe = Counter("nfe", "Forward passes, summed over texts", ["model"], registry=registry)
        self._tpf = Histogram("tokens_per_forward", "Of a request", buckets=TPF, registry=registry)
        self._latency = Histogram("request_seconds", "To the answer", ["path"], buckets=SECONDS, registry=registry)
        self._text = Histogram("first_text_seconds", "To the first settled text", buckets=SECONDS, registry=registry)
        self._sentence = Histogram(
            "first_sentence_seconds", "To the first finished sentence", buckets=SECONDS, registry=registry
        )
        self._responses = Counter("responses", "Answers", ["path", "status"], registry=registry)
        self._feedback = Counter("feedback", "Feedback that was stored", ["kind"], registry=registry)
        self._seconds = {name: deque[float](maxlen=LATEST) for name in ("latency", "first_commit", "first_sentence")}
        self._recent: deque[tuple[float, int]] = deque(maxlen=LATEST)  # when a request was written, and its tokens
        self.feedback: dict[str, int] = {}
        self.models: dict[str, dict[str, int]] = {}

    def first_text(self, seconds: float) -> None:
        """A request's first settled text was there."""
        self._text.observe(seconds)
        self._seconds["first_commit"].append(seconds)

    def first_sentence(self, seconds: float) -> None:
        """A request's first finished sentence was there."""
        self._sentence.observe(seconds)
        self._seconds["first_sentence"].append(seconds)

    def written(self, model: str, tokens: int, nfe: int) -> None:
        """A request's texts are written."""
        self._committed.labels(model).inc(tokens)
        self._nfe.labels(model).inc(nfe)
        if nfe:
            self._tpf.observe(tokens / nfe)
        self._recent.append((time.monotonic(), tokens))
        totals = self.models.setdefault(model, {"requests": 0, "tokens": 0, "nfe": 0})
        for name, value in (("requests", 1), ("tokens", tokens), ("nfe", nfe)):
            totals[name] += value

    def embedded(self, model: str, tokens: int) -> None:
        """A request's texts are embedded."""
        self._embedded.labels(model).inc(tokens)

    def answered(self, path: str, status: int, seconds: float | None) -> None:
        """An answer was sent; seconds only of those that count as latency."""
        self._responses.labels(path, str(status)).inc()
        if seconds is not None:
            self._latency.labels(path).observe(seconds)
            self._seconds["latency"].append(seconds)

    def stored(self, kind: str) -> None:
        """Feedback was stored."""
        self._feedback.labels(kind).inc()
        self.feedback[kind] = self.feedback.get(kind, 0) + 1

    def text(self, workers: Mapping[str, Any], learned: Mapping[str, Any]) -> bytes:
        """In the text format of Prometheus, with what the workers counted and the controller has learned."""
        registry = CollectorRegistry()
        registry.register(_WorkerNumbers(workers))
        registry.register(_Learned(learned))
        return generate_latest(self.registry) + generate_latest(registry)

    @property
    def seconds(self) -> dict[str, list[float]]:
        """Latencies of the latest requests."""
        return {name: [*values] for name, values in self._seconds.items()}

    def tokens_per_second(self) -> float:
        """Over the last ten seconds, of requests that were finished in them."""
        since = time.monotonic() - RECENT_SECONDS
        return round(sum(tokens for when, tokens in self._recent if when >= since) / RECENT_SECONDS, 2)


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Several servers' metrics as one text, each sample with the name of its server as `replica`."""
    families: dict[str, Metric] = {}
    for name, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            one = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                one.add_sample(sample.name, {**sample.labels, "replica": name}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Merged([*families.values()]))
    return generate_latest(registry)


@dataclass(eq=False)
class _Merged:
    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def percentiles(values: list[float]) -> dict[str, float | int | None]:
    """How many seconds there are, their p50 and their p95."""
    values = sorted(values)

    def at(share: float) -> float | None:
        return round(values[min(len(values) - 1, int(share * len(values)))], 4) if values else None

    return {"count": len(values), "p50": at(0.5), "p95": at(0.95)}


class _WorkerNumbers:
    """The workers' counters as metrics."""

    def __init__(self, numbers: Mapping[str, Any]):
        self.numbers = numbers

    def collect(self) -> Iterator[Any]:
        """All of them."""
        numbers = self.numbers
        for name, key, what in (
            ("forwards", "forwards", "Forward passes of whole batches"),
            ("positions_evaluated", "positions", "Positions run through the network, padding included"),
            ("prefix_tokens_reused", "prefix_tokens", "Prompt tokens that were not computed again"),
            ("network_seconds", "seconds", "Inside the network"),
        ):
            yield CounterMetricFamily(name, what, numbers.get(key, 0))
        yield GaugeMetricFamily("queue_depth", "Rows that wait", numbers.get("queued", 0))
        yield GaugeMetricFamily("rows_running", "Rows being written", numbers.get("running", 0))
        batch = {int(size): n for size, n in (numbers.get("batch") or {}).items()}
        buckets = [(str(float(size)), sum(n for s, n in batch.items() if s <= size)) for size in ROWS]
        buckets.append(("+Inf", sum(batch.values())))
        total = sum(size * n for size, n in batch.items())
        yield HistogramMetricFamily("step_batch_size", "Rows in a step", buckets=buckets, sum_value=total)


class _Learned:
    """What the controller believes of presets, as metrics."""

    def __init__(self, models: Mapping[str, Any]):
        self.models = models

    def collect(self) -> Iterator[Any]:
        """By model, kind of request and preset."""
        labels = ["model", "kind", "preset"]
        used = CounterMetricFamily("controller_decisions", "Requests that got a preset", labels=labels)
        utility = GaugeMetricFamily("controller_utility", "Utility that a preset is believed to have", labels=labels)
        for model, learned in self.models.items():
            for kind, presets in learned["kinds"].items():
                for preset, believed in presets.items():
                    used.add_metric([model, kind, preset], believed["used"])
                    utility.add_metric([model, kind, preset], believed["utility"])
        yield used
        yield utility
