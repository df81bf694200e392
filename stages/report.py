"""Stage `report`: the results as metrics, tables and pictures, in Git."""

import json
from pathlib import Path

from stages import params
from stages.atomic import replacing
from stages.errors import command


@command
def main():
    p = params.load()
    from stages.reporting import figures, results

    rows = p.variants.rows
    table = results.collect(rows, p.report.tolerance)
    curves = results.training_curves(rows)
    machine = json.loads(Path("benchmark/machine.json").read_text())
    texts = {
        "summary.json": json.dumps(results.summary(table), indent=2) + "\n",
        "results.csv": table.to_csv(float_format="%.4f"),
        "results.md": results.markdown(table, machine),
        "training.csv": curves.to_csv(index=False, float_format="%.4f"),
        "machine.json": json.dumps(machine, indent=2) + "\n",
    }
    folder = Path(p.report.folder)
    for name, text in texts.items():
        with replacing(folder / name) as scratch:
            scratch.write_text(text)
    for name, draw, data in (
        ("accuracy_latency.png", figures.accuracy_against_latency, table),
        ("training.png", figures.training_curves, curves),
        ("weights.png", figures.weight_histogram, rows),
    ):
        with replacing(folder / name) as scratch:
            draw(data, scratch)
    print(texts["results.md"])


if __name__ == "__main__":
    main()
