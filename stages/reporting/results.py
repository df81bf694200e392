"""The results of all variants in tables, and their renderings."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages import checkpoints
from stages.core import model_folder
from stages.core.errors import UserError
from stages.measurement import identity
from stages.measurement.enough import FEWEST, FEWEST_ROUNDS
from stages.measurement.speed import reference
from stages.reporting import evidence
from stages.reporting.markdown import percent, table_of
from stages.runtime.calibration import Calibration

SPREAD = ["threshold_accuracy_low", "threshold_accuracy_high"]
SUMMARY = ["accuracy_calibrated", "oos_recall_calibrated", *SPREAD, "size_mb", "speedup"]
ACCURACIES = ["accuracy", "accuracy_calibrated", "accuracy_in_scope_calibrated", "oos_recall_calibrated"]
SPEEDUPS = ("speedup", "speedup_over_bert_base")
SIZES = ["embeddings_mb", "encoder_mb", "head_mb", "tokenizer_mb"]
COLLAPSE = 0.02
TIMED = Path("benchmark")
NOISY = 0.1
STARTED = (
    "The first answer is that of a process started for it, imports included. "
    "The peak memory is that process's."
)
NOT_STARTED = "`benchmark.starts` above 0 measures the start of a process and its memory, too."
NO_THRESHOLD = (
    "No model has an out-of-scope threshold, which *calibrated* would apply: it takes "
    f"{FEWEST} validation queries out of scope, and {FEWEST} in scope."
)


def evaluation(name: str) -> dict:
    """What the stage `evaluate` measured of the model: `sizes`, `validation`, `test`."""
    keys = ("sizes", "out_of_scope_share", "validation", "test")
    return evidence.values(Path("evaluations") / name / "accuracy.json", keys)


def measured_on(name: str) -> dict[str, str]:
    """`model_sha256` and `data_sha256` of what was evaluated.

    A UserError, if calibrated/ has another model.
    """
    file = Path("evaluations") / name / "measured.json"
    evaluated = evidence.values(file, ("model_sha256", "data_sha256"))
    if evaluated["model_sha256"] != identity.of_model(model_folder.CALIBRATED / name):
        raise UserError(f"{file} is of another model than calibrated/{name}: run `dvc repro`")
    return evaluated


def check(results: pd.DataFrame, best: str) -> None:
    """A UserError, if `results` are of other data than data/, or models/best is not their row `best`."""
    others = results.index[results["data_sha256"] != identity.of_data()]
    if len(others):
        raise UserError(f"evaluations/{others[0]} is of other data than data/ has: run `dvc repro`")
    if best not in results.index or (
        results["model_sha256"][best] != identity.of_model(model_folder.MODELS / "best")
    ):
        raise UserError(f"models/best is not the calibrated model {best} of the table: run `dvc repro`")


def recipe(name: str) -> dict:
    """The recipe of an evaluated model."""
    return model_folder.recipe(model_folder.CALIBRATED / name)


def calibration(name: str) -> Calibration:
    """The calibration of an evaluated model."""
    return Calibration.of(checkpoints.read(model_folder.CALIBRATED / name).calibration)


def threshold_spread(name: str) -> dict[str, float]:
    """How sure the threshold of an evaluated model is: `same_score`, `threshold_low`, `threshold_high`."""
    found = (checkpoints.read(model_folder.CALIBRATED / name).calibration or {}).get("spread") or {}
    return {("" if key == "same_score" else "threshold_") + key: value for key, value in found.items()}


def collect(rows: list[str], parents: dict[str, str]) -> pd.DataFrame:
    """One row a model, indexed by name: parent, accuracies on test, sizes, latency, `lost`.

    `lost` is the validation accuracy lost against the nearest of the `rows` that the model comes
    from, `ancestor`. `score` is that of the out-of-scope threshold, if there is one. A UserError names what
    is missing, damaged, or of another model than calibrated/ has.
    """
    times = timed()
    timed_models = evidence.values(TIMED / "measured.json", rows)
    results = []
    for name in rows:
        steps, measures = recipe(name), evaluation(name)
        threshold, measured = calibration(name).threshold, measured_on(name)
        if name not in times.index:
            raise evidence.damaged(str(TIMED / "latency.csv"), f"has no row {name}")
        if timed_models[name] != measured["model_sha256"]:
            raise UserError(
                f"{TIMED}/measured.json: {name} is another model than calibrated/{name}: run `dvc repro`"
            )
        results.append(
            {
                "model": name,
                "parent": steps["parent"],
                "technique": steps["technique"],
                "validation_accuracy": measures["validation"]["accuracy"],
                "validation_expected_accuracy_calibrated": measures["validation"][
                    "expected_accuracy_calibrated"
                ],
                "out_of_scope_share": measures["out_of_scope_share"],
                **measures["test"],
                "exits": _exits(measures["test"].get("exits", [])),
                **measures["sizes"],
                "sparsity": steps.get("sparsity", {}).get("overall"),
                "ancestor": ancestor(name, rows, parents),
                "score": None if threshold is None else threshold.score,
                "threshold": None if threshold is None else threshold.value,
                **threshold_spread(name),
                **measured,
            }
        )
    table = pd.DataFrame(results).set_index("model").join(times.drop(columns="size_mb"))
    accuracy = table["validation_accuracy"]
    table["lost"] = table["ancestor"].map(accuracy) - accuracy
    return table


def _exits(exits: list[dict]) -> str | None:
    """The share of queries that leave at each early exit, in words; None for a model without exits."""
    places = [f"layer {at['layer']}" if at["layer"] else "the embeddings" for at in exits]
    return ", ".join(f"{percent(at['share'])} after {p}" for at, p in zip(exits, places, strict=True)) or None


def timed() -> pd.DataFrame:
    """What the stage `benchmark` measured: a row a model, and one for BERT-base's shape."""
    numbers = ("size_mb", "latency_queries", "latency_mean_ms", "latency_p50_ms", "query_ms", *SPEEDUPS)
    tails = [f"latency_p{percent}_ms" for percent in (95, 99)]
    intervals = [f"{key}_{end}" for key in SPEEDUPS for end in ("low", "high")]
    table = evidence.table(TIMED / "latency.csv", numbers, optional=(*tails, *intervals))
    if reference.NAME not in table.index:
        raise evidence.damaged(str(TIMED / "latency.csv"), f"has no row {reference.NAME}")
    table["latency_ms"] = table["latency_mean_ms"]
    return table


def ancestor(name: str, rows: list[str], parents: dict[str, str]) -> str | None:
    """The nearest of `rows` among the models that `name` was made from."""
    parent = parents.get(name)
    while parent is not None and parent not in rows:
        parent = parents.get(parent)
    return parent


def summary(results: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """The numbers of each model that `dvc metrics diff` shows; of BERT-base's shape, those it has."""
    shape = timed().loc[[reference.NAME]].reindex(columns=SUMMARY)
    rounded = pd.concat([results[SUMMARY].astype(float), shape.astype(float)]).round(4)
    rows = {
        str(name): {key: None if pd.isna(value) else value for key, value in row.items()}
        for name, row in rounded.to_dict("index").items()
    }
    rows[reference.NAME] = {key: rows[reference.NAME][key] for key in ("size_mb", "speedup")}
    return rows


def markdown(results: pd.DataFrame, machine: dict) -> str:
    """The table that people read, with what it was measured on below."""
    columns = ["model", "accuracy", "calibrated", "in scope, calibrated", "out-of-scope recall, calibrated"]
    columns += ["size, MB", "latency, mean (p99), ms", "speed-up (95%)", "over BERT-base's shape"]
    shape = timed().loc[reference.NAME]
    rows = [[f"*{reference.NAME}, unfit*", *"––––", *_costs(shape)]]
    for name, row in results.iterrows():
        rows.append([_bold(name, row), *(percent(row[key]) for key in ACCURACIES), *_costs(row)])
    share = percent(results["out_of_scope_share"].iloc[0])
    calibrated = (
        "*Calibrated* applies the out-of-scope threshold that was chosen on validation, for the best "
        f"accuracy where {share} of the queries are out of scope."
    )
    if results["score"].isna().all():
        calibrated = NO_THRESHOLD
    paragraphs = [
        f"Accuracies are those of the test split. {calibrated} Size is all that "
        "is deployed, in MB of 2^20 bytes. Latency is of one query of the test split, with tokenization, on "
        f"{cpu(machine)}. Speed-up is over the teacher: a ratio of mean latencies within interleaved rounds, "
        "with its 95% bootstrap interval. The model in bold is models/best; it was chosen on validation.",
        *noise(results),
    ]
    early = results["exits"].dropna()
    if len(early):
        left = "; ".join(f"{name}: {exits}" for name, exits in early.items())
        paragraphs.append(f"Test queries that leave at early exits: {left}.")
    collapsed = [
        f"{name} ({100 * row['lost']:.1f} less than {row['ancestor']})"
        for name, row in results[results["lost"] > COLLAPSE].iterrows()
    ]
    if collapsed:
        paragraphs.append(
            f"These models lost more than {100 * COLLAPSE:.0f} points of validation accuracy: "
            f"{', '.join(collapsed)}."
        )
    return table_of(columns, rows, *paragraphs)


def cpu(machine: dict) -> str:
    """The CPU of a machine.json, with the instruction sets that int8 depends on."""
    sets = ", ".join(machine["int8_instructions"]) or "none"
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    cpu = f"{machine['cpu']}; instruction sets for int8: {sets}"
    return f"{threads} of a machine with {machine['cores']} cores ({cpu})"


def _costs(row: pd.Series) -> list[str]:
    return [
        f"{row['size_mb']:.1f}",
        f"{row['latency_mean_ms']:.2f} ({_milliseconds(row['latency_p99_ms'])})",
        _ratio(row, "speedup"),
        times(row["speedup_over_bert_base"]),
    ]


def _ratio(row: pd.Series, key: str) -> str:
    low, high = (times(row[f"{key}_{end}"]).removeprefix("×") for end in ("low", "high"))
    return times(row[key]) if pd.isna(row[f"{key}_low"]) else f"{times(row[key])} ({low}–{high})"


def _milliseconds(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


def times(ratio: float) -> str:
    if pd.isna(ratio):
        return "–"
    return f"×{ratio:.1f}" if ratio >= 1 else f"×{ratio:.2f}"


def noise(results: pd.DataFrame) -> list[str]:
    """A warning if the machine was too noisy, or the rounds too few, to conclude from its speed-ups."""
    if any(results[f"{key}_low"].isna().any() for key in SPEEDUPS):
        return [f"**No intervals.** An interval takes {FEWEST_ROUNDS} `benchmark.rounds`."]
    noisy = pd.Series(False, results.index)
    for key in SPEEDUPS:
        low, high = results[f"{key}_low"], results[f"{key}_high"]
        noisy |= (high - low) / (high + low) > NOISY
    if not noisy.any():
        return []
    return [
        f"**Too noisy to conclude.** An interval of these speed-ups is wider than ±{100 * NOISY:.0f}%: "
        f"{', '.join(results.index[noisy])}. Run `dvc repro -fs benchmark` on a quieter machine, or with "
        "more `benchmark.rounds`."
    ]


def latency_markdown(latency: pd.DataFrame, names: list[str], machine: dict) -> str:
    """Time of a query and of a batch; start and memory of a process, if they were measured."""
    table = latency.loc[[reference.NAME, *names]]
    counts = table["latency_queries"].astype(int)
    started = table["start_s"].notna().any()
    batches = [key.removesuffix("_p95_ms") for key in table if key.startswith("batch_") and "_p95" in key]
    columns = ["model", "mean, ms", "p50", "p95", "p99"]
    columns += ["over the teacher (95%)", "over BERT-base's shape (95%)", "fixed query, ms"]
    tails = {key: " (p95)" if table[f"{key}_p95_ms"].notna().any() else "" for key in batches}
    columns += [f"in a {key.replace('_', ' of ')}{tails[key]}, ms" for key in batches]
    columns += ["over its parts", *(["first answer after, s", "peak memory, MB"] if started else [])]
    rows = [
        [
            str(name),
            *(_milliseconds(row[f"latency_{key}_ms"]) for key in ("mean", "p50", "p95", "p99")),
            *(_ratio(row, key) for key in SPEEDUPS),
            f"{row['query_ms']:.2f}",
            *(
                f"{row[f'{key}_ms']:.2f}" + (f" ({_milliseconds(row[f'{key}_p95_ms'])})" if tail else "")
                for key, tail in tails.items()
            ),
            f"×{row['overhead']:.2f}",
            *([f"{row['start_s']:.2f}", f"{row['peak_mb']:.0f}"] if started else []),
        ]
        for name, row in table.iterrows()
    ]
    versions = ", ".join(f"{key} {machine[key]}" for key in ("python", "torch", "onnxruntime", "tokenizers"))
    return table_of(
        columns,
        rows,
        f"Mean, p50, p95 and p99 are over {counts[names].min():,} queries of the test split, end to end. "
        f"{reference.NAME} is slow and answers {counts[reference.NAME]:,} of them, chosen to have the same "
        "lengths. A speed-up is the median over rounds of the ratio of the mean latencies of a round. The "
        "fixed query is `benchmark.query`, and its column shows the median. A batch holds test queries that "
        "were drawn for its round, and its column shows the time of each. *Over its parts* is the whole time "
        "of the fixed query divided by that of tokenization and the session. "
        f"{STARTED if started else NOT_STARTED} Of fewer than {FEWEST} runs there is no p95 and no p99; of "
        "fewer than 100, p99 is nearly the longest.",
        f"Measured on {cpu(machine)}; {versions}.",
        *noise(table),
    )


def calibration_markdown(results: pd.DataFrame) -> str:
    """How well probabilities are calibrated, and queries out of scope detected, on test."""
    columns = ["model", "score", "threshold (95%)", "accuracy by it (95%)", "temperature"]
    columns += ["calibration error", "tempered", "out-of-scope recall"]
    columns += ["precision", "AUROC", "false positives at 95%"]
    measures = ["calibration_error", "calibration_error_calibrated", "oos_recall_calibrated"]
    measures += ["oos_precision_calibrated", "auroc", "fpr_at_95_recall"]
    rows = []
    for name, row in results.iterrows():
        fitted = calibration(str(name))
        percents = [percent(row.get(key)) for key in measures]
        rows.append([_bold(name, row), *_threshold(row), f"{fitted.temperature:.2f}", *percents])
    return table_of(
        columns,
        rows,
        "Test split. To say how sure a threshold is, the queries of validation were drawn again, with "
        "replacement, and score and threshold chosen on each draw. The percentage beside a score is how "
        "often it was chosen. The intervals hold 95% of the thresholds with that score, and of the test "
        "accuracies by all of them.",
        "The calibration error is the expected one of the top probability, over 15 bins. Recall and "
        "precision are those of calibrated answers, for queries out of scope. The last column is the share "
        "of queries in scope that would be refused by the threshold that refuses 95% of those out of scope. "
        f"It and AUROC take {FEWEST} test queries in scope, and {FEWEST} out of it.",
        *([NO_THRESHOLD] if results["score"].isna().all() else []),
    )


def _threshold(row: pd.Series) -> list[str]:
    """The score, the threshold and the accuracy by it, with how sure they are."""
    if pd.isna(row["score"]):
        return ["–"] * 3
    low, high = (f"{100 * row[key]:.1f}" for key in SPREAD)
    threshold = f"{row['threshold']:.2f} ({row['threshold_low']:.2f} to {row['threshold_high']:.2f})"
    accuracy = f"{percent(row['accuracy_calibrated'])} ({low}–{high})"
    return [f"{row['score']} ({percent(row['same_score'], 0)})", threshold, accuracy]


def sizes_markdown(results: pd.DataFrame) -> str:
    """Where the bytes are."""
    columns = ["model", "embeddings", "encoder", "head", "weights", "tokenizer and config", "all, MB"]
    columns += ["encoder weights removed"]
    rows = []
    for name, row in results.iterrows():
        *weights, tokenizer = (row[part] for part in SIZES)
        parts = [*weights, sum(weights), tokenizer, row["size_mb"]]
        rows.append([_bold(name, row), *(f"{part:.2f}" for part in parts), percent(row["sparsity"])])
    text = table_of(
        columns, rows, "MB of 2^20 bytes. *Weights* is the file of weights, the size that the book reports."
    )
    cut = {str(name): recipe(str(name)).get("embedding_mb_by_script") for name in results.index}
    vocabularies = {name: scripts for name, scripts in cut.items() if scripts}
    if vocabularies:
        scripts = [*dict.fromkeys(script for parts in vocabularies.values() for script in parts)]
        rows = []
        for name, parts in vocabularies.items():
            whole = [sum(sizes) for sizes in zip(*parts.values(), strict=True)]
            rows.append([name, *(_change(sizes) for sizes in (whole, *map(parts.get, scripts)))])
        text += (
            "\nThe embeddings of words before and after `vocabulary`, in fp32, in MB. The columns are the "
            "scripts of the training texts; *other* has pieces in none of them.\n\n"
        )
        text += table_of(["model", "all", *scripts], rows)
    packed = {str(name): recipe(str(name)).get("bytes") for name in results.index}
    formats = {name: sizes for name, sizes in packed.items() if sizes}
    if formats:
        names = list(next(iter(formats.values())))
        text += (
            "\nThe file of weights of packed models in formats that give it back to the byte, in MB. "
            "`packed`, a bitmask with deflate, is the format used.\n\n"
        )
        text += table_of(
            ["model", *names],
            [[name, *(f"{sizes[key] / 2**20:.2f}" for key in names)] for name, sizes in formats.items()],
        )
    return text


def _change(sizes: Sequence[float] | None) -> str:
    return "–" if sizes is None else "{:.2f} → {:.2f}".format(*sizes)


def _bold(name, row: pd.Series) -> str:
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
        steps = recipe(name)
        if steps["technique"] == "prune":
            measures = evaluation(name)
            measured_on(name)
            points.append(
                {
                    "model": name,
                    "method": steps["parameters"]["method"],
                    "sparsity": steps["sparsity"]["overall"],
                    "seed": steps["parameters"]["seed"],
                    "validation_accuracy": measures["validation"]["accuracy"],
                    "test_accuracy": measures["test"]["accuracy"],
                    "test_accuracy_calibrated": measures["test"]["accuracy_calibrated"],
                }
            )
    columns = ["model", "method", "sparsity", "seed", "validation_accuracy", "test_accuracy"]
    return pd.DataFrame(points, columns=[*columns, "test_accuracy_calibrated"])
