"""What Prometheus is told: of all processes together, whichever is asked.

The processes share the folder PROMETHEUS_MULTIPROC_DIR, which is set before this module is imported.
"""

import asyncio
import os
from bisect import bisect_left
from collections import Counter as Counts
from itertools import chain

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from stages.serving.model import Answer

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SOON = 0.01  # seconds until answers are counted, many at a time, so that none waits for it


class Histogram(prometheus_client.Histogram):
    def observe_all(self, amounts: list[float]) -> None:
        """As `observe` of each, which takes longer."""
        self._sum.inc(sum(amounts))
        buckets = Counts(bisect_left(self._upper_bounds, amount) for amount in amounts)
        for bucket, count in buckets.items():
            self._buckets[bucket].inc(count)


class Metrics:
    """Those of a process that answers requests. `out_of_scope` is the label of such queries."""

    def __init__(self, out_of_scope: str | None):
        self.out_of_scope_label = out_of_scope
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("requests", "Answers to /predict", ["status"], registry=registry)
        self.seconds = Histogram(
            "request_seconds",
            "From the head of a request to its answer",
            buckets=[0.0005 * 2**i for i in range(14)],
            registry=registry,
        )
        self.lookups = Counter("cache_lookups", "Texts looked up", ["result"], registry=registry)
        self.waiting = Gauge(
            "texts_waiting", "Not taken up yet", registry=registry, multiprocess_mode="livesum"
        )
        self.worker_restarts = Counter("worker_restarts", "Workers that died or hung", registry=registry)
        self.predictions = Counter("predictions", "Texts answered", ["label"], registry=registry)
        self.out_of_scope = Counter("out_of_scope", "Texts answered as out of scope", registry=registry)
        self.scores = Histogram(
            "prediction_score",
            "The probability of the label",
            buckets=[i / 20 for i in range(1, 21)],
            registry=registry,
        )
        self.exits = Counter("exits", "Texts by the early exit they left at", ["exit"], registry=registry)
        self.children: dict[tuple[Counter, object], Counter] = {}
        self.requests_to_count: list[tuple[int, float, list[Answer]]] = []
        self.runs_to_count: list[list[Answer]] = []

    def answered(self, status: int, seconds: float, answers: list[Answer]) -> None:
        """A request was answered: count it, and what shows drift."""
        self._soon()
        self.requests_to_count.append((status, seconds, answers))

    def ran(self, answers: list[Answer]) -> None:
        """The model answered, and no cache: count where the texts left."""
        self._soon()
        self.runs_to_count.append(answers)

    def _soon(self) -> None:
        if not (self.requests_to_count or self.runs_to_count):
            asyncio.get_running_loop().call_later(SOON, self.count)

    def count(self) -> None:
        """Count what came since the last time."""
        requests = self.requests_to_count
        answers = list(chain.from_iterable(answers for _, _, answers in requests))
        exits = [answer.exit for answer in chain.from_iterable(self.runs_to_count)]
        labels = Counts(answer.label for answer in answers)
        self._inc(self.requests, Counts(status for status, _, _ in requests))
        self._inc(self.predictions, labels)
        self._inc(self.exits, Counts(exit for exit in exits if exit is not None))
        self.seconds.observe_all([seconds for _, seconds, _ in requests])
        self.scores.observe_all([answer.score for answer in answers])
        if self.out_of_scope_label is not None:
            self.out_of_scope.inc(labels[self.out_of_scope_label])
        self.requests_to_count.clear()
        self.runs_to_count.clear()

    def _inc(self, metric: Counter, counts: Counts) -> None:
        for label, count in counts.items():
            if (metric, label) not in self.children:
                self.children[metric, label] = metric.labels(label)
            self.children[metric, label].inc(count)

    def text(self) -> bytes:
        """Prometheus's text format."""
        self.count()
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)
        return generate_latest(everyone)


class SupervisorMetrics:
    """Those of the process that watches the others."""

    def __init__(self):
        registry = CollectorRegistry()
        self.restarts = Counter("process_restarts", "Processes that died or hung", registry=registry)
        self.ready, self.workers = (
            Gauge(f"{kind}_ready", f"{kind.title()} ready", registry=registry, multiprocess_mode="livemax")
            for kind in ("processes", "workers")
        )

    def died(self, pid: int) -> None:
        self.restarts.inc()
        mark_process_dead(pid)
