"""What Prometheus is told: of all processes together, whichever is asked.

The processes share the folder PROMETHEUS_MULTIPROC_DIR, which is set before this module is imported.
"""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from stages.serving.model import Answer

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


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
        self.by_label: dict[str, Counter] = {}
        self.exits = Counter("exits", "Texts by the early exit they left at", ["exit"], registry=registry)

    def answered(self, answers: list[Answer]) -> None:
        """Count what shows drift."""
        for label, score, _ in answers:
            if label not in self.by_label:
                self.by_label[label] = self.predictions.labels(label)
            self.by_label[label].inc()
            self.scores.observe(score)
            if label == self.out_of_scope_label:
                self.out_of_scope.inc()

    def ran(self, answers: list[Answer]) -> None:
        """Count where those left that the model answered, and no cache."""
        for _, _, number in answers:
            if number is not None:
                self.exits.labels(str(number)).inc()

    def text(self) -> bytes:
        """Prometheus's text format."""
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
