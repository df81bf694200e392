"""Logits of a whole split."""

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.runtime import Classifier


def compute(classifier: Classifier, table: pd.DataFrame, batch_size: int, title: str) -> np.ndarray:
    """Logits of the queries of `table`, column `text`: shape (len(table), labels), float32.

    Queries of like length go together, `batch_size` at a time. `title` is shown beside the progress bar.
    """
    order = table["text"].str.len().argsort(kind="stable").to_numpy()
    texts = table["text"].to_numpy()
    logits = np.empty((len(table), len(classifier.labels)), dtype=np.float32)
    with tqdm(total=len(table), desc=title, unit="query") as progress:
        for start in range(0, len(table), batch_size):
            rows = order[start : start + batch_size]
            logits[rows] = classifier.logits(texts[rows].tolist())
            progress.update(len(rows))
    return logits
