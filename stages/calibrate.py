"""Stage `calibrate`: models/<name> with a temperature and an out-of-scope threshold, as calibrated/<name>."""

import os
import shutil
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
    from stages.measurement import calibration
    from stages.measurement.performance import PerformanceBenchmark
    from stages.runtime import calibrated

    folder = model_folder.MODELS / name
    benchmark = PerformanceBenchmark(folder, threads=len(os.sched_getaffinity(0)))
    validation = tables.read("validation")
    logits = benchmark.logits(validation, p.evaluate.batch_size)
    fitted = calibration.fit(
        logits,
        validation["label"].to_numpy(),
        tables.read_labels().out_of_scope_id,
        p.calibrate.scores,
        p.calibrate.rule,
    )
    with replacing(Path("logits/validation") / f"{name}.npy") as scratch, scratch.open("wb") as file:
        np.save(file, logits)
    with replacing(model_folder.CALIBRATED / name) as scratch:
        shutil.copytree(folder, scratch)
        calibrated.write(scratch, fitted)


if __name__ == "__main__":
    main(sys.argv[1])
