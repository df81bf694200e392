"""Stage `evaluate`: accuracy on validation and test, plain and calibrated, and size, of calibrated/<name>."""

import json
import os
import sys
from pathlib import Path

import numpy as np

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    from stages import model_folder
    from stages.atomic import replacing
    from stages.intents import tables
    from stages.measurement import accuracy, size
    from stages.measurement.performance import PerformanceBenchmark
    from stages.runtime import calibrated

    folder = model_folder.CALIBRATED / name
    benchmark = PerformanceBenchmark(folder, threads=len(os.sched_getaffinity(0)))
    splits = {split: tables.read(split) for split in ("validation", "test")}
    logits = {
        "validation": np.load(Path("logits/validation") / f"{name}.npy"),
        "test": benchmark.logits(splits["test"], p.evaluate.batch_size),
    }
    fitted = calibrated.read(folder)
    out_of_scope = tables.read_labels().out_of_scope_id
    results = {
        split: accuracy.measure(logits[split], table["label"].to_numpy(), out_of_scope, fitted)
        for split, table in splits.items()
    }
    with replacing(Path("logits/test") / f"{name}.npy") as scratch, scratch.open("wb") as file:
        np.save(file, logits["test"])
    with replacing(Path("evaluations") / f"{name}.json") as scratch:
        scratch.write_text(json.dumps({"sizes": size.breakdown(folder), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
