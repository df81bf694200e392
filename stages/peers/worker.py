"""One peer, in the Python of its environment, started by workshop and timed.

    python -m stages.peers.worker make stages.peers.olive task.json model
    python -m stages.peers.worker logits stages.peers.olive model test.json test.npy
    python -m stages.peers.worker answer stages.peers.olive model 1

The last one answers a request a line of standard input, a JSON list of texts, with a line of JSON, the
milliseconds: `[whole]`, or `[tokenization, session]` if the request is an object, {"parts": text}.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from stages.core import processes
from stages.core.errors import command
from stages.measurement.speed.measured_model import MeasuredModel
from stages.peers.contract import Task


class Measured(MeasuredModel):
    def __init__(self, module: str, folder: str, threads: int):
        self.classifier = import_module(module).load(Path(folder), threads)


def make(module: str, task: str, folder: str) -> None:
    import_module(module).make(Task.read(Path(task)), Path(folder))


def logits(module: str, folder: str, texts: str, output: str) -> None:
    """Those of each text by itself, as single queries are served: float32, shape (texts, labels)."""
    classifier = import_module(module).load(Path(folder), processes.cores())
    queries = json.loads(Path(texts).read_text(encoding="utf-8"))
    rows = [np.asarray(classifier.logits([query]), dtype=np.float32)[0] for query in queries]
    np.save(output, np.stack(rows))


def answer(module: str, folder: str, threads: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    measured = Measured(module, folder, int(threads))
    gc.disable()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        times = measured.time_parts(request["parts"]) if "parts" in request else [measured.time(request)]
        print(json.dumps(times), file=answers, flush=True)


@command
def main(action: str, *arguments: str) -> None:
    actions: dict[str, Callable[..., None]] = {"make": make, "logits": logits, "answer": answer}
    actions[action](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
