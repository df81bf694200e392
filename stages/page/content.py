"""What the views of the page show, as one JSON: of a report in Git, and of the models and data here."""

import base64
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import UserError
from stages.core.settings import Variants
from stages.data import tables
from stages.measurement import identity
from stages.measurement.speed import reference
from stages.reporting import evidence, lineage, selection, summary
from stages.reporting.results import calibration, cpu

SPEEDUPS = ("speedup_over_bert_base", "speedup_over_bert_base_low", "speedup_over_bert_base_high")
NUMBERS = ("size_mb", "latency_ms", "accuracy_calibrated")
MEASURES = (
    *NUMBERS,
    *SPEEDUPS,
    "latency_p50_ms",
    "latency_p99_ms",
    "accuracy_in_scope_calibrated",
    "oos_recall_calibrated",
    "threshold_accuracy_low",
    "threshold_accuracy_high",
)


def collect(folder: Path, variants: Variants | None, make: str) -> dict:
    """All that the page shows of the report `folder`, JSON with null for what is not defined.

    `variants` are those of the report, if they are known, and the command `make` makes its models.

    The models, `training` and `confusions` are read from the tables in Git. `validation` (scores by model)
    and `queries` (the answers on test) take data/, calibrated/ and evaluations/ of the same models and data.
    Where these are not here, both are null, and `lacks` says why. A UserError names a table that is missing
    or damaged.
    """
    results, machine, selected = summary.read(folder)
    names, lacks = measured_here(results)
    return {
        "report": folder.as_posix(),
        "make": make,
        "machine": cpu(machine),
        "selected": selected,
        "out_of_scope_share": _number(results.get("out_of_scope_share", pd.Series([np.nan])).iloc[0]),
        **frontier(folder, results, variants),
        "training": _training(folder),
        "confusions": _confusions(folder),
        "lacks": lacks,
        "validation": validation(names) if names else None,
        "queries": queries(names) if names else None,
    }


def measured_here(results: pd.DataFrame) -> tuple[list[str], str | None]:
    """The rows of a report whose models, data and logits are in the working directory; why, if none are."""
    if any(column not in results for column in summary.IDENTITY):
        return [], "the report does not say which models and data it was measured on"
    if not Path("data/test.parquet").exists():
        return [], "data/, calibrated/ and evaluations/ are not here"
    if set(results["data_sha256"]) != {identity.of_data()}:
        return [], "data/ has other queries than the report was measured on"
    names = []
    for name, digest in results["model_sha256"].items():
        measured = Path("evaluations", str(name), "measured.json")
        try:
            evaluated = evidence.values(measured, summary.IDENTITY)
        except UserError:
            continue
        if evaluated["model_sha256"] == digest:
            names.append(str(name))
    return names, None if names else "evaluations/ has none of the report's models"


def frontier(folder: Path, results: pd.DataFrame, variants: Variants | None) -> dict:
    """`models` with their measures and lineage, the `front` of names, and BERT-base's `shape`.

    The lineage is that of conf/ where it has the model with the same parent, and else the rows that the model
    comes from.
    """
    columns = ("size_mb", "latency_ms")
    times = evidence.table(folder / "tables/latency.csv", columns)
    shape = times.loc[reference.NAME]
    intervals = evidence.table(
        folder / "tables/accuracy.csv", ("accuracy", "low", "high"), key=("model", "kind")
    ).xs("calibrated", level="kind")
    models = []
    for name, row in results.iterrows():
        made = _lineage(str(name), results, variants)
        steps = lineage.steps(made, results, times)
        models.append(
            {
                "name": name,
                "family": lineage.family(made),
                **{measure: _number(row.get(measure)) for measure in MEASURES},
                "low": _number(intervals["low"].get(name)),
                "high": _number(intervals["high"].get(name)),
                "chosen_by": _number(row.get(selection.ACCURACY, row.get("validation_accuracy"))),
                "steps": [{key: _number(value) for key, value in asdict(step).items()} for step in steps],
            }
        )
    models += _peers(folder)
    front = selection.front(results, "latency_ms", "accuracy_calibrated").index
    return {
        "models": models,
        "front": list(front),
        "shape": {"name": reference.NAME, **{key: _number(shape[key]) for key in columns}},
    }


def _lineage(name: str, results: pd.DataFrame, variants: Variants | None) -> list[dict]:
    known = variants is not None and (name in variants.teachers or name in variants.models)
    if known and variants.parents.get(name, results["parent"][name]) == results["parent"][name]:
        return variants.lineage(name)
    ancestor = results["ancestor"].get(name)
    before = [] if pd.isna(ancestor) else _lineage(ancestor, results, variants)
    return [*before, {"stage": results["technique"][name], "name": name}]


def _peers(folder: Path) -> list[dict]:
    """The peers that `intents peers` measured, if it did."""
    file = folder / "peers.json"
    if not file.exists():
        return []
    measured = evidence.values(file, ("models",))["models"]
    return [
        {
            "name": name,
            "family": "peers",
            **{measure: _number(row.get(measure)) for measure in MEASURES},
            "latency_ms": row["latency_mean_ms"],
            "steps": [],
        }
        for name, row in measured.items()
        if row["kind"] == "peer"
    ]


def _training(folder: Path) -> dict[str, dict[str, list]]:
    """By model: `epoch`, `loss` and `accuracy` on validation, 0 to 1, a value an epoch."""
    file = folder / "tables/training.csv"
    if len(file.read_text().splitlines()) < 2:
        return {}
    curves = evidence.table(file, ("loss", "eval_accuracy"), key=("model", "epoch")).reset_index()
    names = {"epoch": "epoch", "loss": "loss", "eval_accuracy": "accuracy"}
    curves["epoch"] = curves["epoch"].astype(float)
    return {
        str(model): {key: rows[column].tolist() for column, key in names.items()}
        for model, rows in curves.groupby("model", sort=False)
    }


def _confusions(folder: Path) -> dict[str, list]:
    """By model: the commonest mistakes, each the intent, the answer and the number of queries."""
    file = folder / "tables/confusions.csv"
    if len(file.read_text().splitlines()) < 2:
        return {}
    pairs = evidence.table(file, ("queries",), key=("model", "intent", "answer")).reset_index()
    return {
        str(model): rows[["intent", "answer", "queries"]].values.tolist()
        for model, rows in pairs.groupby("model", sort=False)
    }


def validation(names: list[str]) -> dict:
    """Of each model with a threshold, what follows from another one on validation.

    `outside`, which queries are out of scope. By model: `score`, its name; `scores` of the queries, float32,
    as the library compares them; `right`, which are right if they are not refused; the threshold `value`.
    """
    labels = tables.read("validation")["label"].to_numpy()
    out_of_scope = tables.read_labels().out_of_scope_id
    models = {}
    for name in names:
        fitted = calibration(name)
        if fitted.threshold is None:
            continue
        tempered = np.load(Path("evaluations", name, "validation.npy")) / fitted.temperature
        accepted = replace(fitted.threshold, value=-np.inf).predict(tempered)
        models[name] = {
            "score": fitted.threshold.score,
            "value": float(fitted.threshold.value),
            "scores": _packed(fitted.threshold.scores(tempered), np.float32),
            "right": _packed(accepted == labels, np.uint8),
        }
    return {"outside": _packed(labels == out_of_scope, np.uint8), "models": models}


def queries(names: list[str]) -> dict:
    """The test queries: `texts`, the `intents`, the index of the true one, and of each model's answer."""
    test, labels = tables.read("test"), tables.read_labels()
    answers = {
        name: calibration(name).predict(np.load(Path("evaluations", name, "test.npy"))) for name in names
    }
    return {
        "intents": labels.names,
        "texts": test["text"].tolist(),
        "truth": _packed(test["label"], np.uint16),
        "answers": {name: _packed(values, np.uint16) for name, values in answers.items()},
    }


def _packed(values, dtype) -> str:
    """An array of `dtype`, little-endian, in base64."""
    return base64.b64encode(np.asarray(values).astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def _number(value):
    """A value of a table for JSON: null for what is missing."""
    if isinstance(value, (str, list)):
        return value
    return None if value is None or pd.isna(value) else float(value)


def as_json(content: dict) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
