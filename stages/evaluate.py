"""Stage `evaluate`: accuracy on validation and test, and size, of models/<name>."""

import json
import sys
from pathlib import Path

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    import os

    from stages import model_folder
    from stages.atomic import replacing
    from stages.intents import tables
    from stages.measurement.performance import PerformanceBenchmark

    benchmark = PerformanceBenchmark(model_folder.MODELS / name, threads=len(os.sched_getaffinity(0)))
    out_of_scope = tables.read_labels().out_of_scope_id
    results = {
        split: benchmark.accuracy(tables.read(split), out_of_scope, p.evaluate.batch_size)
        for split in ("validation", "test")
    }
    with replacing(Path("evaluations") / f"{name}.json") as scratch:
        scratch.write_text(json.dumps({"size_mb": benchmark.size_mb(), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
