"""The model as the service asks it: one text at a time, on one thread."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages import checkpoints, runtime


class Answer(NamedTuple):
    """An intent, its probability, and the early exit that the text left at, if the model has exits."""

    label: str
    score: float
    exit: int | None = None


Run = Sequence[np.ndarray]  # logits of shape (1, labels), and the exit, if the model has exits


class Model:
    """The model in `folder`. An answer does not depend on what else is asked, as each text runs alone."""

    def __init__(self, folder: Path):
        self.classifier = runtime.load(folder, threads=1)

    def run(self, text: str) -> Run:
        return self.classifier.answers([text])

    def answers(self, runs: Sequence[Run]) -> list[Answer]:
        """What each of some runs says. For many together this takes little longer than for one."""
        logits = np.concatenate([run[0] for run in runs])
        calibration = self.classifier.calibration
        labels = self.classifier.labels
        return [
            Answer(labels[index], float(probabilities[index]), int(exits[0][0]) if exits else None)
            for index, probabilities, (_, *exits) in zip(
                calibration.predict(logits), calibration.probabilities(logits), runs, strict=True
            )
        ]

    def answer(self, text: str) -> Answer:
        return self.answers([self.run(text)])[0]


def out_of_scope_label(folder: Path) -> str | None:
    """The label of queries that are out of scope, of a model with a threshold for them."""
    checkpoint = checkpoints.read(folder)
    threshold = (checkpoint.calibration or {}).get("threshold")
    return checkpoint.labels[threshold["out_of_scope"]] if threshold else None
