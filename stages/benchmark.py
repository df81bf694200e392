"""Stage `benchmark`: latency, start and memory of the models of the table and of BERT-base's shape."""

import json
import tempfile
from pathlib import Path

from stages import params
from stages.atomic import replacing
from stages.errors import command


@command
def main():
    p = params.load()
    import pandas as pd
    from tqdm import tqdm

    from stages import model_folder
    from stages.intents import tables
    from stages.measurement import footprint, latency, machine, reference
    from stages.measurement.performance import PerformanceBenchmark

    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: model_folder.CALIBRATED / name for name in p.variants.table}
        folders[reference.NAME] = Path(scratch) / reference.NAME
        reference.write(folders[reference.NAME], folders["teacher"], p.benchmark.reference)
        sizes = {name: model_folder.size_mb(folder) for name, folder in folders.items()}
        starts = [
            {"model": name, **footprint.start(folder, p.benchmark.query)}
            for _ in tqdm(range(p.benchmark.starts), "starts", unit="round")
            for name, folder in folders.items()
        ]
        models = {name: PerformanceBenchmark(folder, p.benchmark.threads) for name, folder in folders.items()}
        queries = tables.read("test")["text"].tolist()
        times = latency.interleave(models, queries, p.benchmark, p.seed)
    summary = latency.summarize(
        times, {"speedup": "teacher", "speedup_over_bert_base": reference.NAME}, p.seed
    )
    summary = summary.join(pd.DataFrame(starts).groupby("model").median())
    summary.insert(0, "size_mb", pd.Series(sizes))
    with replacing("benchmark") as folder:
        folder.mkdir()
        times.to_csv(folder / "times.csv", index=False, float_format="%.4f")
        summary.to_csv(folder / "latency.csv", float_format="%.4f")
        (folder / "machine.json").write_text(
            json.dumps(machine.describe(p.benchmark.threads), indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
