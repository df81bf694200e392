"""Stage `benchmark`: latency, start and memory of the models of the table and of BERT-base's shape."""

import tempfile
from pathlib import Path

from stages.core import settings
from stages.core.atomic import replacing, write_json
from stages.core.errors import command


@command
def main():
    p = settings.load()
    import pandas as pd
    from tqdm import tqdm

    from stages.core import model_folder
    from stages.data import tables
    from stages.measurement import identity
    from stages.measurement.speed import footprint, latency, machine, reference
    from stages.measurement.speed.measured_model import MeasuredModel

    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: model_folder.CALIBRATED / name for name in p.variants.table}
        folders[reference.NAME] = Path(scratch) / reference.NAME
        reference.write(folders[reference.NAME], folders["teacher"], p.benchmark.reference)
        models_sha256 = {name: identity.of_model(folders[name]) for name in p.variants.table}
        sizes = {name: model_folder.size_mb(folder) for name, folder in folders.items()}
        starts = [
            {"model": name, **footprint.start(folder, p.benchmark.query)}
            for _ in tqdm(range(p.benchmark.starts), "starts", unit="round", disable=p.benchmark.starts == 0)
            for name, folder in folders.items()
        ]
        models = {name: MeasuredModel(folder, p.benchmark.threads) for name, folder in folders.items()}
        queries = tables.read("test")["text"].tolist()
        times = latency.interleave(models, queries, p.benchmark, p.seed)
    summary = latency.summarize(
        times, {"speedup": "teacher", "speedup_over_bert_base": reference.NAME}, p.seed
    )
    started = pd.DataFrame(starts, columns=["model", "start_s", "peak_mb"])
    summary = summary.join(started.groupby("model").median().astype(float))
    summary.insert(0, "size_mb", pd.Series(sizes))
    with replacing("benchmark") as folder:
        folder.mkdir()
        times.to_csv(folder / "times.csv", index=False, float_format="%.4f")
        summary.to_csv(folder / "latency.csv", float_format="%.4f")
        write_json(folder / "measured.json", models_sha256)
        write_json(folder / "machine.json", machine.describe(p.benchmark.threads))


if __name__ == "__main__":
    main()
