"""Stage `report`: the results as metrics, tables and pictures, in Git."""

import json
from pathlib import Path

from stages import params
from stages.atomic import replacing
from stages.errors import command
from stages.intents import domains, tables


@command
def main():
    p = params.load()
    from stages.reporting import answers, figures, results

    variants = p.variants
    rows = variants.table
    folder = Path(p.report.folder)
    table = results.collect(rows, variants.parents)
    table["best"] = table.index == json.loads((folder / results.BEST).read_text())["model"]
    curves = results.training_curves(rows)
    points = results.pruning(list(variants.rows))
    machine = json.loads(Path("benchmark/machine.json").read_text())
    test = tables.read("test")
    labels = test["label"].to_numpy()
    intents = tables.read_labels().names
    given = answers.given(rows)
    ancestors = table["ancestor"].dropna().to_dict()
    comparison = answers.compare(given, labels, ancestors)
    by_domain = answers.by_domain(given["calibrated"], labels, intents, domains.read())
    confusions = answers.confusions(given["calibrated"], labels, intents)
    texts = {
        "summary.json": json.dumps(results.summary(table), indent=2) + "\n",
        "results.csv": table.to_csv(float_format="%.4f"),
        "results.md": results.markdown(table, machine),
        "accuracy.md": answers.comparison_markdown(comparison, ancestors),
        "right.csv": answers.right(given, labels, test["text"]).to_csv(index=False),
        "accuracy.csv": comparison.to_csv(index=False, float_format="%.4g"),
        "domains.csv": by_domain.to_csv(float_format="%.4f"),
        "confusions.csv": confusions.to_csv(index=False),
        "latency.md": results.latency_markdown(rows, machine),
        "calibration.md": results.calibration_markdown(table),
        "sizes.md": results.sizes_markdown(table),
        "training.csv": curves.to_csv(index=False, float_format="%.4f"),
        "pruning.csv": points.to_csv(index=False, float_format="%.4f"),
        "machine.json": json.dumps(machine, indent=2) + "\n",
    }
    for name, text in texts.items():
        with replacing(folder / name) as scratch:
            scratch.write_text(text)

    pruned = [name for name in points["model"] if name in rows]
    dense = table["ancestor"][pruned[0]] if pruned else "teacher"
    profiles = {name: recipe["sparsity"] for name in rows if "sparsity" in (recipe := results.recipe(name))}
    profiles |= {name: results.recipe(name)["sparsity"] for name in points["model"]}
    shown = ["teacher", *table.index[table["best"]]]
    pictures = {
        "accuracy_latency.png": lambda path: figures.accuracy_against_latency(table, path),
        "training.png": lambda path: figures.training_curves(curves, path),
        "calibration.png": lambda path: figures.calibration_curves(rows, shown, labels, path),
        "sizes.png": lambda path: figures.size_breakdown(table, path),
        "weights.png": lambda path: figures.pruned_weights([dense, *pruned], path),
        "sparsity.png": lambda path: figures.sparsity_by_layer(profiles, path),
        "pruning.png": lambda path: figures.accuracy_against_sparsity(
            points, results.evaluated(dense)["validation"]["accuracy"], path
        ),
        "quantization.png": lambda path: figures.quantization_error(dense, p.quantize.reduce_range, path),
    }
    for name, draw in pictures.items():
        with replacing(folder / name) as scratch:
            draw(scratch)
    print(texts["results.md"])


if __name__ == "__main__":
    main()
