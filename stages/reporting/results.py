"""The results of all variants in tables, and their renderings."""

import json
from pathlib import Path

import pandas as pd

from stages import model_folder
from stages.runtime import calibrated

HEADLINES = [
    "accuracy",
    "accuracy_in_scope",
    "oos_recall",
    "accuracy_calibrated",
    "accuracy_in_scope_calibrated",
    "oos_recall_calibrated",
    "size_mb",
    "latency_ms",
    "speedup",
]
SIZES = ["embeddings_mb", "encoder_mb", "head_mb", "tokenizer_mb"]
COLLAPSE = 0.02


def evaluated(name: str) -> dict:
    """What `evaluate` found of the model."""
    return json.loads((Path("evaluations") / f"{name}.json").read_text())


def recipe(name: str) -> dict:
    return model_folder.recipe(model_folder.CALIBRATED / name)


def collect(rows: list[str], parents: dict[str, str], tolerance: float) -> pd.DataFrame:
    """One row a model, indexed by name: lineage, accuracies on test, sizes, latency, `best`, `lost`.

    `best` marks the fastest model whose validation accuracy is at most `tolerance` below the
    teacher's; of those within a tenth of its speed, which timing cannot tell apart, the most
    accurate on validation. `lost` is the validation accuracy lost against the nearest of the
    `rows` that the model comes from, `ancestor`.
    """
    results = []
    for name in rows:
        made, evaluation = recipe(name), evaluated(name)
        results.append(
            {
                "model": name,
                "parent": made["parent"],
                "technique": made["technique"],
                "validation_accuracy": evaluation["validation"]["accuracy"],
                "validation_accuracy_calibrated": evaluation["validation"]["accuracy_calibrated"],
                **evaluation["test"],
                **evaluation["sizes"],
                "sparsity": made.get("sparsity", {}).get("overall"),
                "ancestor": ancestor(name, rows, parents),
            }
        )
    table = pd.DataFrame(results).set_index("model")
    table = table.join(pd.read_csv("benchmark/latency.csv", index_col="model"))
    table.insert(table.columns.get_loc("latency_mean_ms"), "latency_ms", table["latency_p50_ms"])
    accuracy = table["validation_accuracy"]
    table["lost"] = table["ancestor"].map(accuracy) - accuracy
    speed = table["speedup"].where(accuracy >= accuracy["teacher"] - tolerance)
    table["best"] = table.index == accuracy.where(speed >= 0.9 * speed.max()).idxmax()
    return table


def ancestor(name: str, rows: list[str], parents: dict[str, str]) -> str | None:
    """The nearest of `rows` among the models that `name` was made from."""
    parent = parents.get(name)
    while parent is not None and parent not in rows:
        parent = parents.get(parent)
    return parent


def summary(results: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """The headline numbers of each model, for `dvc metrics diff`."""
    rounded = results[HEADLINES].astype(float).round(4)
    return {
        name: {k: None if pd.isna(v) else v for k, v in row.items()}
        for name, row in rounded.to_dict("index").items()
    }


def markdown(results: pd.DataFrame, machine: dict) -> str:
    """The table that people read, with what it was measured on below."""
    lines = [
        "| model | accuracy | calibrated | in scope, calibrated | out-of-scope recall, calibrated | size, MB "
        "| latency p50 (p99), ms | speed-up |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.iterrows():
        percents = " | ".join(_percent(row[key]) for key in ("accuracy", *HEADLINES[3:6]))
        lines.append(
            f"| {_shown(name, row)} | {percents} | {row['size_mb']:.1f} | {row['latency_p50_ms']:.2f} "
            f"({row['latency_p99_ms']:.2f}) | ×{row['speedup']:.1f} |"
        )
    extensions = ", ".join(machine["int8_instructions"]) or "none"
    lines += [
        "",
        f"Test split. Latency of one query, tokenization included, {machine['threads']} thread(s) of "
        f"{machine['cores']} cores ({machine['cpu']}; int8 instructions: {extensions}). Size: all that is "
        "deployed, MB of 2^20 bytes. Calibrated: with the out-of-scope threshold chosen on validation. Bold: "
        "the fastest within the tolerance of the teacher on validation.",
        "",
    ]
    collapsed = [
        f"{name} ({100 * row['lost']:.1f} less than {row['ancestor']})"
        for name, row in results[results["lost"] > COLLAPSE].iterrows()
    ]
    if collapsed:
        lines += [
            f"More than {100 * COLLAPSE:.0f} points of validation accuracy lost: {', '.join(collapsed)}.",
            "",
        ]
    return "\n".join(lines)


def calibration_markdown(results: pd.DataFrame) -> str:
    """How well probabilities are calibrated, and queries out of scope detected, on test."""
    lines = [
        "| model | score | temperature | calibration error | tempered | AUROC | false positives at 95% |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.iterrows():
        fitted = calibrated.read(model_folder.CALIBRATED / str(name))
        score = fitted.threshold.score if fitted.threshold else "–"
        lines.append(
            f"| {_shown(name, row)} | {score} | {fitted.temperature:.2f} "
            f"| {_percent(row['calibration_error'])} | {_percent(row['calibration_error_calibrated'])} "
            f"| {_percent(row.get('auroc'))} | {_percent(row.get('fpr_at_95_recall'))} |"
        )
    lines += [
        "",
        "Test split. Calibration error: expected, over 15 bins, of the top probability. A positive is a "
        "query out of scope; false positives are the queries in scope that are refused when 95% of those out "
        "of scope are.",
        "",
    ]
    return "\n".join(lines)


def sizes_markdown(results: pd.DataFrame) -> str:
    """Where the bytes are."""
    lines = [
        "| model | embeddings | encoder | head | tokenizer and config | all, MB | encoder weights removed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.iterrows():
        parts = " | ".join(f"{row[part]:.2f}" for part in [*SIZES, "size_mb"])
        lines.append(f"| {_shown(name, row)} | {parts} | {_percent(row['sparsity'])} |")
    lines += ["", "MB of 2^20 bytes.", ""]
    packed = {str(name): recipe(str(name)).get("bytes") for name in results.index}
    formats = {name: sizes for name, sizes in packed.items() if sizes}
    if formats:
        names = list(next(iter(formats.values())))
        lines += [
            "The file of weights of those that are packed, MB, in formats that give it back to the byte; "
            "`packed`, a bitmask and deflate, is the one used:",
            "",
            f"| model | {' | '.join(names)} |",
            "|---|" + "---:|" * len(names),
            *(
                f"| {name} | {' | '.join(f'{sizes[key] / 2**20:.2f}' for key in names)} |"
                for name, sizes in formats.items()
            ),
            "",
        ]
    return "\n".join(lines)


def _shown(name, row: pd.Series) -> str:
    return f"**{name}**" if row["best"] else str(name)


def _percent(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{100 * value:.1f}%"


def training_curves(rows: list[str]) -> pd.DataFrame:
    """Every epoch of every model that was trained: `model`, `epoch`, losses, accuracy, sparsity."""
    epochs = []
    for name in rows:
        epochs += [{"model": name, **epoch} for epoch in recipe(name).get("history", [])]
    columns = ["model", "epoch", "loss", "eval_loss", "eval_accuracy", "sparsity"]
    return pd.DataFrame(epochs).reindex(columns=columns)


def pruning(rows: list[str]) -> pd.DataFrame:
    """Every model whose encoder weights were pruned: `method`, `sparsity` as saved, `seed`, accuracies."""
    points = []
    for name in rows:
        made = recipe(name)
        if made["technique"] == "pruning":
            evaluation = evaluated(name)
            points.append(
                {
                    "model": name,
                    "method": made["parameters"]["method"],
                    "sparsity": made["sparsity"]["overall"],
                    "seed": made["parameters"]["seed"],
                    "validation_accuracy": evaluation["validation"]["accuracy"],
                    "test_accuracy": evaluation["test"]["accuracy"],
                    "test_accuracy_calibrated": evaluation["test"]["accuracy_calibrated"],
                }
            )
    columns = ["model", "method", "sparsity", "seed", "validation_accuracy", "test_accuracy"]
    return pd.DataFrame(points, columns=[*columns, "test_accuracy_calibrated"])
