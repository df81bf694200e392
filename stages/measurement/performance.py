"""Accuracy, size and latency of a model folder, whatever it runs on."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import model_folder, runtime
from stages.measurement.accuracy import intent_accuracy


class PerformanceBenchmark:
    """One model folder under measurement, on `threads` threads."""

    def __init__(self, folder: Path | str, threads: int = 1):
        self.folder = Path(folder)
        self.classifier = runtime.load(folder, threads)

    def accuracy(self, table: pd.DataFrame, out_of_scope: int | None, batch_size: int = 1) -> dict:
        """`accuracy`, `accuracy_in_scope` and `oos_recall` on `table`, columns `text` and `label`.

        Dynamic int8 scales its activations over a whole batch, so there a query's logits depend
        on its neighbours; a batch of one is what a single query gets.
        """
        texts = table["text"].tolist()
        predictions = [
            self.classifier.logits(texts[start : start + batch_size]).argmax(axis=-1)
            for start in tqdm(range(0, len(texts), batch_size), self.folder.name, unit="batch")
        ]
        return intent_accuracy().compute(
            predictions=np.concatenate(predictions), references=table["label"], out_of_scope=out_of_scope
        )

    def size_mb(self) -> float:
        """Weights, config and tokenizer on disk, in MB of 2^20 bytes."""
        return model_folder.size_mb(self.folder)

    def time_query(self, query: str) -> float:
        """Milliseconds from text to intent and score, tokenization included, for one query."""
        start = time.perf_counter_ns()
        self.classifier.predict([query])
        return (time.perf_counter_ns() - start) / 1e6
