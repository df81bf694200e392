"""Stage `benchmark`: the latency of one query on every variant of the results, interleaved."""

import json

from stages import params
from stages.atomic import replacing
from stages.errors import command


@command
def main():
    p = params.load()
    from stages import model_folder
    from stages.measurement import latency, machine
    from stages.measurement.performance import PerformanceBenchmark

    models = {
        name: PerformanceBenchmark(model_folder.CALIBRATED / name, p.benchmark.threads)
        for name in p.variants.table
    }
    times = latency.interleave(models, p.benchmark, p.seed)
    with replacing("benchmark") as scratch:
        scratch.mkdir()
        times.to_csv(scratch / "times.csv", index=False, float_format="%.4f")
        latency.summarize(times, baseline="teacher").to_csv(scratch / "latency.csv", float_format="%.4f")
        (scratch / "machine.json").write_text(
            json.dumps(machine.describe(p.benchmark.threads), indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
