"""Stage `report`: the results as metrics, tables and pictures, in Git."""

from pathlib import Path

from stages.core import settings
from stages.core.errors import command


@command
def main():
    p = settings.load()
    from stages.core import model_folder
    from stages.core.atomic import replacing, write_json, write_text
    from stages.data import domains, tables
    from stages.reporting import answers, evidence, figures, frontier, load_test, readme, results, summary

    if p.report.beside:
        summary.read(Path(p.report.beside))  # which is printed at the end
    rows = p.variants.table
    folder = Path(p.report.folder)
    best = model_folder.recipe(model_folder.MODELS / "best")
    table = results.collect(rows, best["parents"])
    table["best"] = table.index == best["parent"]
    latency = results.timed()
    curves = results.training_curves(rows)
    points = results.pruning(list(p.variants.rows))
    results.check(table, best["parent"])
    machine = evidence.values(results.TIMED / "machine.json", summary.MACHINE)
    test = tables.read("test")
    labels = test["label"].to_numpy()
    intents = tables.read_labels().names
    predictions = answers.predictions(rows)
    ancestors = table["ancestor"].dropna().to_dict()
    differences = answers.differences(predictions, labels, ancestors)
    f1 = answers.by_intent(predictions["calibrated"], labels, intents)
    table["macro_f1_calibrated"] = answers.macro_f1(f1)
    loaded = load_test.read()
    with replacing(folder / "tables") as scratch:
        scratch.mkdir()
        table.to_csv(scratch / "results.csv", float_format="%.4f")
        answers.right(predictions, labels, test["text"]).to_csv(scratch / "right.csv", index=False)
        differences.to_csv(scratch / "accuracy.csv", index=False, float_format="%.4g")
        answers.by_domain(predictions["calibrated"], labels, intents, domains.read()).to_csv(
            scratch / "domains.csv", float_format="%.4f"
        )
        f1.to_csv(scratch / "intents.csv", float_format="%.4f")
        answers.confusions(predictions["calibrated"], labels, intents).to_csv(
            scratch / "confusions.csv", index=False
        )
        latency.to_csv(scratch / "latency.csv", float_format="%.4f")
        curves.to_csv(scratch / "training.csv", index=False, float_format="%.4f")
        points.to_csv(scratch / "pruning.csv", index=False, float_format="%.4f")
        loaded.loads.to_csv(scratch / "load_test.csv", index=False, float_format="%.4f")
        loaded.http_loads.to_csv(scratch / "load_test_http.csv", index=False, float_format="%.4f")
        write_json(scratch / "load_test.json", load_test.values(loaded))
        write_json(scratch / "machine.json", machine)
        write_json(scratch / "selected.json", {"model": best["parent"], "reason": best["reason"]})
    pruned = [name for name in points["model"] if name in rows]
    origin = None if points.empty else results.ancestor(points["model"][0], rows, best["parents"])
    dense = origin or "teacher"
    profiles = {
        name: recipe["sparsity"]
        for name in dict.fromkeys([*rows, *points["model"]])
        if "sparsity" in (recipe := results.recipe(name))
    }
    int8 = [results.recipe(name)["parameters"] for name in rows]
    reduce_range = next((values["reduce_range"] for values in int8 if "reduce_range" in values), True)
    pictures = {
        "accuracy_latency": lambda path: frontier.draw(table, p.report.published, path),
        "steps": lambda path: figures.waterfall(best["lineage"], table, latency, path),
        "training": lambda path: figures.training_curves(curves, path),
        "calibration": lambda path: figures.calibration_curves(
            rows, list(dict.fromkeys(["teacher", best["parent"]])), labels, path
        ),
        "sizes": lambda path: figures.size_breakdown(table, path),
        "weights": lambda path: figures.pruned_weights([dense, *pruned], path),
        "sparsity": lambda path: figures.sparsity_by_layer(profiles, path),
        "pruning": lambda path: figures.accuracy_against_sparsity(
            points, results.evaluation(dense)["validation"]["accuracy"], path
        ),
        "quantization": lambda path: figures.quantization_error(dense, reduce_range, path),
        "load_test": lambda path: load_test.picture(loaded, p.load_test, path),
    }
    with replacing(folder / "pictures") as scratch:
        scratch.mkdir()
        for name, draw in pictures.items():
            draw(scratch / f"{name}.png")

    sections = {
        "Results": results.markdown(table, machine),
        "Accuracy": answers.comparison_markdown(differences, ancestors),
        "Intents": answers.rare_markdown(f1),
        "Latency": results.latency_markdown(latency, rows, machine),
        "Calibration": results.calibration_markdown(table),
        "Size": results.sizes_markdown(table),
        "Load test": load_test.markdown(loaded, p.load_test),
    }
    write_text(folder / "README.md", readme.write(folder.name, best, sections))
    write_json(folder / "summary.json", results.summary(table))
    print(summary.text(folder, Path(p.report.beside) if p.report.beside else None))


if __name__ == "__main__":
    main()
