"""The model as the service asks it: one text at a time, on one thread."""

from pathlib import Path
from typing import NamedTuple

from stages import checkpoints, runtime


class Answer(NamedTuple):
    """An intent, its probability, and the early exit that the text left at, if the model has exits."""

    label: str
    score: float
    exit: int | None = None


class Model:
    """The model in `folder`. An answer does not depend on what else is asked, as each text runs alone."""

    def __init__(self, folder: Path):
        self.classifier = runtime.load(folder, threads=1)

    def answer(self, text: str) -> Answer:
        logits, *exits = self.classifier.answers([text])
        calibration = self.classifier.calibration
        (index,) = calibration.predict(logits)
        score = float(calibration.probabilities(logits)[0, index])
        return Answer(self.classifier.labels[index], score, int(exits[0][0]) if exits else None)


def out_of_scope_label(folder: Path) -> str | None:
    """The label of queries that are out of scope, of a model with a threshold for them."""
    checkpoint = checkpoints.read(folder)
    threshold = (checkpoint.calibration or {}).get("threshold")
    return checkpoint.labels[threshold["out_of_scope"]] if threshold else None
