"""The results of all variants in one table, and its renderings."""

import json
from pathlib import Path

import pandas as pd

from stages import model_folder

HEADLINES = ["accuracy", "accuracy_in_scope", "oos_recall", "size_mb", "latency_ms", "speedup"]


def collect(rows: list[str], tolerance: float) -> pd.DataFrame:
    """One row a model, indexed by name: lineage, accuracies on test, size, latency, `best`.

    `best` marks the fastest model whose validation accuracy is at most `tolerance` below the
    teacher's; of those within a tenth of its speed, which timing cannot tell apart, the most
    accurate on validation.
    """
    results = []
    for name in rows:
        recipe = model_folder.recipe(model_folder.MODELS / name)
        evaluation = json.loads((Path("evaluations") / f"{name}.json").read_text())
        results.append(
            {
                "model": name,
                "parent": recipe["parent"],
                "technique": recipe["technique"],
                "validation_accuracy": evaluation["validation"]["accuracy"],
                **evaluation["test"],
                "size_mb": evaluation["size_mb"],
            }
        )
    table = pd.DataFrame(results).set_index("model")
    table = table.join(pd.read_csv("benchmark/latency.csv", index_col="model"))
    table.insert(table.columns.get_loc("latency_mean_ms"), "latency_ms", table["latency_p50_ms"])
    accuracy = table["validation_accuracy"]
    speed = table["speedup"].where(accuracy >= accuracy["teacher"] - tolerance)
    table["best"] = table.index == accuracy.where(speed >= 0.9 * speed.max()).idxmax()
    return table


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
        "| model | accuracy | in scope | out-of-scope recall | size, MB | latency p50 (p99), ms | speed-up |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.iterrows():
        shown = f"**{name}**" if row["best"] else name
        percents = " | ".join(_percent(row[key]) for key in HEADLINES[:3])
        lines.append(
            f"| {shown} | {percents} | {row['size_mb']:.1f} | {row['latency_p50_ms']:.2f} "
            f"({row['latency_p99_ms']:.2f}) | ×{row['speedup']:.1f} |"
        )
    extensions = ", ".join(machine["int8_instructions"]) or "none"
    lines += [
        "",
        f"Test split. Latency of one query, tokenization included, {machine['threads']} thread(s) of "
        f"{machine['cores']} cores ({machine['cpu']}; int8 instructions: {extensions}). Size: weights, "
        "tokenizer and config, MB of 2^20 bytes. Bold: the fastest within the tolerance of the teacher "
        "on validation.",
        "",
    ]
    return "\n".join(lines)


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f}%"


def training_curves(rows: list[str]) -> pd.DataFrame:
    """Every epoch of every model that was trained: `model`, `epoch`, losses, accuracy, sparsity."""
    epochs = []
    for name in rows:
        history = model_folder.recipe(model_folder.MODELS / name).get("history", [])
        epochs += [{"model": name, **epoch} for epoch in history]
    columns = ["model", "epoch", "loss", "eval_loss", "eval_accuracy", "sparsity"]
    return pd.DataFrame(epochs).reindex(columns=columns)
