"""A model whose answers are timed."""

import time
from pathlib import Path

from stages import runtime


class MeasuredModel:
    """The model folder on `threads` threads."""

    def __init__(self, folder: Path | str, threads: int = 1):
        self.classifier = runtime.load(folder, threads)

    def time(self, queries: list[str]) -> float:
        """Milliseconds from the texts of one batch to their intents and scores, tokenization included."""
        start = time.perf_counter_ns()
        self.classifier.predict(queries)
        return (time.perf_counter_ns() - start) / 1e6

    def time_parts(self, query: str) -> tuple[float, float]:
        """Milliseconds of the two parts of a query that are not ours: tokenization, and the session's run."""
        start = time.perf_counter_ns()
        inputs = self.classifier.encode([query])
        middle = time.perf_counter_ns()
        self.classifier.session(*inputs)
        return (middle - start) / 1e6, (time.perf_counter_ns() - middle) / 1e6
