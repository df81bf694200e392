"""What the models here answer to a query, and how long each part of it takes."""

import threading
import time
from pathlib import Path

from stages import checkpoints, runtime
from stages.core import model_folder
from stages.core.errors import UserError


class Models:
    """The calibrated models here, each loaded when it is first asked. One query is answered at a time."""

    def __init__(self, folder: Path = model_folder.CALIBRATED):
        self.folder = folder
        self.loaded: dict[str, runtime.Classifier] = {}
        self.lock = threading.Lock()  # the session of torch shares its threads with the whole process

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("*/config.json"))

    def answer(self, name: str, text: str) -> dict:
        """`label`, its `score`, `in_scope` (None without a threshold), `exit`, and the parts' milliseconds.

        `exit` is in words, None of a model without early exits. A UserError names a model that is not here.
        """
        if name not in self.names():
            raise UserError(f"{self.folder}/{name} is not here: run `dvc repro`")
        with self.lock:
            if name not in self.loaded:
                self.loaded[name] = runtime.load(self.folder / name)
                self.loaded[name].answers([text])  # the first takes longer than any other
            model = self.loaded[name]
            start = time.perf_counter()
            encoded = model.encode([text])
            tokenized = time.perf_counter()
            logits, *exits = model.session.answers(*encoded)
            answered = time.perf_counter()
        answer = int(model.calibration.predict(logits)[0])
        threshold = model.calibration.threshold
        return {
            "model": name,
            "label": model.labels[answer],
            "score": float(model.calibration.probabilities(logits)[0, answer]),
            "in_scope": None if threshold is None else answer != threshold.out_of_scope,
            "exit": _place(checkpoints.read(self.folder / name).exits, int(exits[0][0])) if exits else None,
            "tokenization_ms": 1000 * (tokenized - start),
            "session_ms": 1000 * (answered - tokenized),
        }


def _place(layers: list[int], number: int) -> str:
    if number == len(layers):
        return "the last layer"
    return f"layer {layers[number]}" if layers[number] else "the embeddings"
