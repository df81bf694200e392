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

    def accuracy(self, table: pd.DataFrame, out_of_scope: int | None, batch_size: int) -> dict:
        """`accuracy`, `accuracy_in_scope` and `oos_recall` on `table`, columns `text` and `label`.

        Queries of like length go together, `batch_size` at a time. Not so in dynamic int8, which
        scales its activations over a whole batch, so that a query's logits depend on its
        neighbours: there each is evaluated alone, as a single query is served.
        """
        from stages.measurement.accuracy import intent_accuracy

        if model_folder.recipe(self.folder)["technique"] == "dynamic int8":
            batch_size = 1
        order = table["text"].str.len().argsort(kind="stable").to_numpy()
        texts = table["text"].to_numpy()
        predictions = np.empty(len(table), dtype=np.int64)
        with tqdm(total=len(table), desc=self.folder.name, unit="query") as progress:
            for start in range(0, len(table), batch_size):
                rows = order[start : start + batch_size]
                predictions[rows] = self.classifier.logits(texts[rows].tolist()).argmax(axis=-1)
                progress.update(len(rows))
        return intent_accuracy().compute(
            predictions=predictions, references=table["label"], out_of_scope=out_of_scope
        )

    def size_mb(self) -> float:
        """Weights, config and tokenizer on disk, in MB of 2^20 bytes."""
        return model_folder.size_mb(self.folder)

    def time_query(self, query: str) -> float:
        """Milliseconds from text to intent and score, tokenization included, for one query."""
        start = time.perf_counter_ns()
        self.classifier.predict([query])
        return (time.perf_counter_ns() - start) / 1e6
