"""The results of all variants in tables, and their renderings."""

import json
from pathlib import Path

import pandas as pd

from stages import model_folder
from stages.measurement import reference
from stages.reporting.markdown import percent, table_of
from stages.runtime import calibrated

BEST = "best.json"
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
    "speedup_over_bert_base",
]
SIZES = ["embeddings_mb", "encoder_mb", "head_mb", "tokenizer_mb"]
COLLAPSE = 0.02
NOISY = 0.1


def evaluated(name: str) -> dict:
    """What `evaluate` found of the model."""
    return json.loads((Path("evaluations") / f"{name}.json").read_text())


def recipe(name: str) -> dict:
    return model_folder.recipe(model_folder.CALIBRATED / name)


def collect(rows: list[str], parents: dict[str, str]) -> pd.DataFrame:
    """One row a model, indexed by name: parent, accuracies on test, sizes, latency, `lost`.

    `lost` is the validation accuracy lost against the nearest of the `rows` that the model comes
    from, `ancestor`.
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
    table = pd.DataFrame(results).set_index("model").join(timed().drop(columns="size_mb"))
    accuracy = table["validation_accuracy"]
    table["lost"] = table["ancestor"].map(accuracy) - accuracy
    return table


def timed() -> pd.DataFrame:
    """What `benchmark` found, a row a model, that of BERT-base's shape among them."""
    table = pd.read_csv("benchmark/latency.csv", index_col="model")
    table["latency_ms"] = table["latency_p50_ms"]
    return table


def ancestor(name: str, rows: list[str], parents: dict[str, str]) -> str | None:
    """The nearest of `rows` among the models that `name` was made from."""
    parent = parents.get(name)
    while parent is not None and parent not in rows:
        parent = parents.get(parent)
    return parent


def summary(results: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """The headline numbers of each model, for `dvc metrics diff`; of BERT-base's shape, those it has."""
    rounded = results[HEADLINES].astype(float).round(4)
    rows = {
        name: {k: None if pd.isna(v) else v for k, v in row.items()}
        for name, row in rounded.to_dict("index").items()
    }
    shape = timed().loc[reference.NAME, ["size_mb", "latency_ms", "speedup"]]
    return rows | {reference.NAME: shape.round(4).to_dict()}


def markdown(results: pd.DataFrame, machine: dict) -> str:
    """The table that people read, with what it was measured on below."""
    columns = ["model", "accuracy", "calibrated", "in scope, calibrated", "out-of-scope recall, calibrated"]
    columns += ["size, MB", "latency p50 (p99), ms", "speed-up (95%)", "over BERT-base's shape"]
    shape = timed().loc[reference.NAME]
    rows = [[f"*{reference.NAME}, unfit*", *"––––", *_costs(shape)]]
    for name, row in results.iterrows():
        rows.append(
            [_shown(name, row), *(percent(row[k]) for k in ("accuracy", *HEADLINES[3:6])), *_costs(row)]
        )
    extensions = ", ".join(machine["int8_instructions"]) or "none"
    paragraphs = [
        f"Test split. Latency of one query, tokenization included, {machine['threads']} thread(s) of "
        f"{machine['cores']} cores ({machine['cpu']}; int8 instructions: {extensions}). Speed-up: over the "
        "teacher, a ratio within rounds, with its 95% bootstrap interval. Size: all that is "
        "deployed, MB of 2^20 bytes. Calibrated: with the out-of-scope threshold chosen on validation. Bold: "
        "models/best, chosen on validation.",
        *noise(results),
    ]
    collapsed = [
        f"{name} ({100 * row['lost']:.1f} less than {row['ancestor']})"
        for name, row in results[results["lost"] > COLLAPSE].iterrows()
    ]
    if collapsed:
        paragraphs.append(
            f"More than {100 * COLLAPSE:.0f} points of validation accuracy lost: {', '.join(collapsed)}."
        )
    return table_of(columns, rows, *paragraphs)


def _costs(row: pd.Series) -> list[str]:
    return [
        f"{row['size_mb']:.1f}",
        f"{row['latency_p50_ms']:.2f} ({row['latency_p99_ms']:.2f})",
        _ratio(row, "speedup"),
        _times(row["speedup_over_bert_base"]),
    ]


def _ratio(row: pd.Series, key: str) -> str:
    low, high = (_times(row[f"{key}_{end}"]).removeprefix("×") for end in ("low", "high"))
    return f"{_times(row[key])} ({low}–{high})"


def _times(ratio: float) -> str:
    return f"×{ratio:.1f}" if ratio >= 1 else f"×{ratio:.2f}"


def noise(results: pd.DataFrame) -> list[str]:
    """A warning, where the machine was too noisy to conclude from."""
    noisy = pd.Series(False, results.index)
    for key in ("speedup", "speedup_over_bert_base"):
        low, high = results[f"{key}_low"], results[f"{key}_high"]
        noisy |= (high - low) / (high + low) > NOISY
    if not noisy.any():
        return []
    return [
        f"**Too noisy to conclude** from the speed-up of {', '.join(results.index[noisy])}: an interval is "
        f"wider than ±{100 * NOISY:.0f}%. Run `dvc repro -fs benchmark` on a quieter machine, or with "
        "more `benchmark.rounds`."
    ]


def latency_markdown(names: list[str], machine: dict) -> str:
    """What a query, a batch and a process cost in time and memory."""
    table = timed().loc[[reference.NAME, *names]]
    batches = [key.removesuffix("_p95_ms") for key in table if key.startswith("batch_") and "_p95" in key]
    columns = ["model", "p50, ms", "p95", "p99", "over the teacher (95%)", "over BERT-base's shape (95%)"]
    columns += [f"in a {key.replace('_', ' of ')} (p95), ms" for key in batches]
    columns += ["over its parts", "first answer after, s", "peak memory, MB"]
    rows = [
        [
            str(name),
            *(f"{row[f'latency_p{p}_ms']:.2f}" for p in (50, 95, 99)),
            *(_ratio(row, key) for key in ("speedup", "speedup_over_bert_base")),
            *(f"{row[f'{key}_ms']:.2f} ({row[f'{key}_p95_ms']:.2f})" for key in batches),
            f"×{row['overhead']:.2f}",
            f"{row['start_s']:.2f}",
            f"{row['peak_mb']:.0f}",
        ]
        for name, row in table.iterrows()
    ]
    versions = ", ".join(f"{key} {machine[key]}" for key in ("python", "torch", "onnxruntime", "tokenizers"))
    return table_of(
        columns,
        rows,
        "p50, p95, p99: the same query, end to end. In a batch: test queries drawn for each round, each "
        "one's share. Over its parts: end to end over tokenization and the session's run. First answer: of a "
        "process started for it, imports included; peak memory: its own.",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s); {versions}.",
        *noise(table),
    )


def calibration_markdown(results: pd.DataFrame) -> str:
    """How well probabilities are calibrated, and queries out of scope detected, on test."""
    columns = ["model", "score", "temperature", "calibration error", "tempered", "out-of-scope recall"]
    columns += ["precision", "AUROC", "false positives at 95%"]
    shown = ["calibration_error", "calibration_error_calibrated", "oos_recall_calibrated"]
    shown += ["oos_precision_calibrated", "auroc", "fpr_at_95_recall"]
    rows = []
    for name, row in results.iterrows():
        fitted = calibrated.read(model_folder.CALIBRATED / str(name))
        score = fitted.threshold.score if fitted.threshold else "–"
        percents = [percent(row.get(key)) for key in shown]
        rows.append([_shown(name, row), score, f"{fitted.temperature:.2f}", *percents])
    return table_of(
        columns,
        rows,
        "Test split. Calibration error: expected, over 15 bins, of the top probability. A positive is a "
        "query out of scope; recall and precision are the calibrated answers'; false positives are the "
        "queries in scope that are refused when 95% of those out of scope are.",
    )


def sizes_markdown(results: pd.DataFrame) -> str:
    """Where the bytes are."""
    columns = ["model", "embeddings", "encoder", "head", "weights", "tokenizer and config", "all, MB"]
    columns += ["encoder weights removed"]
    rows = []
    for name, row in results.iterrows():
        *weights, tokenizer = (row[part] for part in SIZES)
        parts = [*weights, sum(weights), tokenizer, row["size_mb"]]
        rows.append([_shown(name, row), *(f"{part:.2f}" for part in parts), percent(row["sparsity"])])
    text = table_of(
        columns,
        rows,
        "MB of 2^20 bytes. Weights: the file of weights, which is what the book measures (its state_dict).",
    )
    packed = {str(name): recipe(str(name)).get("bytes") for name in results.index}
    formats = {name: sizes for name, sizes in packed.items() if sizes}
    if formats:
        names = list(next(iter(formats.values())))
        text += (
            "\nThe file of weights of those that are packed, MB, in formats that give it back to the byte; "
            "`packed`, a bitmask and deflate, is the one used:\n\n"
        )
        text += table_of(
            ["model", *names],
            [[name, *(f"{sizes[key] / 2**20:.2f}" for key in names)] for name, sizes in formats.items()],
        )
    return text


def _shown(name, row: pd.Series) -> str:
    return f"**{name}**" if row["best"] else str(name)


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
