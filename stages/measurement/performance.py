"""Accuracy, size and latency of a model folder, whatever it runs on."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import model_folder, runtime


class PerformanceBenchmark:
    """One model folder under measurement, on `threads` threads."""

    def __init__(self, folder: Path | str, threads: int = 1):
        self.folder = Path(folder)
        self.classifier = runtime.load(folder, threads)

    def logits(self, table: pd.DataFrame, batch_size: int) -> np.ndarray:
        """Logits of the queries of `table`, column `text`: shape (len(table), labels), float32.

        Queries of like length go together, `batch_size` at a time. Not so in dynamic int8, whose
        logits depend on a query's neighbours: there each goes alone, as a single query is served.
        """
        if model_folder.scales_by_batch(self.folder):
            batch_size = 1
        order = table["text"].str.len().argsort(kind="stable").to_numpy()
        texts = table["text"].to_numpy()
        logits = np.empty((len(table), len(self.classifier.labels)), dtype=np.float32)
        with tqdm(total=len(table), desc=self.folder.name, unit="query") as progress:
            for start in range(0, len(table), batch_size):
                rows = order[start : start + batch_size]
                logits[rows] = self.classifier.logits(texts[rows].tolist())
                progress.update(len(rows))
        return logits

    def size_mb(self) -> float:
        """Weights, config and tokenizer on disk, in MB of 2^20 bytes."""
        return model_folder.size_mb(self.folder)

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
