"""Logits of a whole split."""

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.runtime import Classifier


def compute(classifier: Classifier, table: pd.DataFrame, batch_size: int, title: str) -> list[np.ndarray]:
    """The classifier's `answers` to the queries of `table`, column `text`, first of all the logits.

    Queries of like length go together, `batch_size` at a time. `title` is shown beside the progress bar.
    """
    order = table["text"].str.len().argsort(kind="stable").to_numpy()
    texts = table["text"].to_numpy()
    parts = []
    with tqdm(total=len(table), desc=title, unit="query") as progress:
        for start in range(0, len(table), batch_size):
            rows = order[start : start + batch_size]
            parts.append(classifier.answers(texts[rows].tolist()))
            progress.update(len(rows))
    return [np.concatenate(values)[np.argsort(order)] for values in zip(*parts, strict=True)]
