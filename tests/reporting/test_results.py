import json
from dataclasses import asdict

import pandas as pd
import pytest

from stages.core import model_folder
from stages.core.atomic import write_json
from stages.reporting import results
from stages.runtime.calibration import Calibration, Threshold

# By name: parent, technique, validation and test accuracy, milliseconds. `exported` is no row.
MODELS = {
    "teacher": ("hub", "teacher", 0.90, 0.80, 10.0),
    "small": ("teacher", "distill", 0.895, 0.81, 2.0),
    "smaller": ("exported", "prune", 0.80, 0.82, 1.0),
}
ROWS = list(MODELS)
PARENTS = {"small": "teacher", "exported": "small", "smaller": "exported"}
SHAPE = "bert-base-shape"
MACHINE = {
    "cpu": "a CPU", "cores": 2, "threads": 1, "int8_instructions": ["avx2"], "python": "3.11.9",
    "torch": "2.13.0", "onnxruntime": "1.32.0", "tokenizers": "0.23.3",
}  # fmt: skip


def accuracies(plain):
    return {
        "accuracy": plain,
        "expected_accuracy": plain - 0.01,
        "expected_accuracy_calibrated": plain + 0.005,
        "accuracy_in_scope": plain + 0.05,
        "oos_recall": None,
        "oos_precision": None,
        "calibration_error": 0.125,
        "accuracy_calibrated": plain + 0.01,
        "accuracy_in_scope_calibrated": plain + 0.02,
        "oos_recall_calibrated": 0.5,
        "oos_precision_calibrated": 0.75,
        "calibration_error_calibrated": 0.0625,
    }


def timed(ms, size):
    """Of a model of `ms` a query, half as much in a batch; intervals of ±5%."""
    times = {"size_mb": size, "latency_mean_ms": ms + 0.1, "latency_std_ms": 0.2}
    times |= {"latency_p50_ms": ms, "latency_p95_ms": ms + 1, "latency_p99_ms": ms + 2}
    for key, baseline in (("speedup", 10), ("speedup_over_bert_base", 40)):
        times |= {key: baseline / ms, f"{key}_low": 0.95 * baseline / ms, f"{key}_high": 1.05 * baseline / ms}
    times |= {"overhead": 1.1, "batch_1_ms": ms, "batch_1_p95_ms": 2 * ms, "batch_8_ms": ms / 2}
    return times | {"batch_8_p95_ms": 0.75 * ms, "start_s": 3.0, "peak_mb": 100 * ms}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """calibrated/, evaluations/ and benchmark/ of three models, numbers made up."""
    monkeypatch.chdir(tmp_path)
    for name, (parent, technique, validation, test, ms) in MODELS.items():
        folder = tmp_path / "calibrated" / name
        folder.mkdir(parents=True)
        history = [
            {"epoch": i, "loss": 2.0 / i, "eval_accuracy": 0.3 * i, "eval_loss": 1.0} for i in (1, 2, 3)
        ]
        measured = {"sparsity": {"overall": 0.6, "layer.0.lin": 0.7}} if technique == "prune" else {}
        parameters = {"method": "movement-hard", "seed": 3} if technique == "prune" else {}
        model_folder.write_recipe(folder, parent, technique, parameters, history=history, **measured)
        threshold = None if name == "teacher" else Threshold(1, "energy", 0.5)
        write_json(folder / "calibration.json", asdict(Calibration(1.25, threshold)))
        detected = {} if threshold is None else {"auroc": 0.99, "fpr_at_95_recall": 0.03}
        evaluation = {
            "sizes": {
                "size_mb": ms * 8, "embeddings_mb": ms, "encoder_mb": 5 * ms, "head_mb": 0.5 * ms,
                "tokenizer_mb": 1.5 * ms,
            },
            "out_of_scope_share": 0.1,
            "validation": accuracies(validation),
            "test": {**accuracies(test), **detected},
        }  # fmt: skip
        write_json(folder / "config.json", {"id2label": {}})
        (tmp_path / "evaluations" / name).mkdir(parents=True)
        write_json(tmp_path / "evaluations" / name / "accuracy.json", evaluation)
    (tmp_path / "benchmark").mkdir()
    times = {name: timed(made[-1], 8 * made[-1]) for name, made in [*MODELS.items(), (SHAPE, (40.0,))]}
    pd.DataFrame(times).T.rename_axis("model").to_csv("benchmark/latency.csv")
    return tmp_path


def measured(name, **values):
    """Put other values in the place of those of a model in the benchmark."""
    times = pd.read_csv("benchmark/latency.csv", index_col="model")
    times.loc[name, list(values)] = list(values.values())
    times.to_csv("benchmark/latency.csv")


def collect(best="small", rows=ROWS):
    table = results.collect(rows, PARENTS)
    table["best"] = table.index == best
    return table


def test_lineage_and_what_was_lost(outputs):
    table = collect()
    assert table["parent"].tolist() == ["hub", "teacher", "exported"]
    assert table["ancestor"].tolist()[1:] == ["teacher", "small"]
    assert pd.isna(table["ancestor"]["teacher"])
    assert table["lost"].tolist() == pytest.approx([float("nan"), 0.005, 0.095], nan_ok=True)
    without = collect(rows=["teacher", "smaller"])
    assert (without["ancestor"]["smaller"], without["lost"]["smaller"]) == ("teacher", pytest.approx(0.1))
    alone = collect(rows=["teacher"])
    assert "lost" not in results.markdown(alone, MACHINE)


def test_summary(outputs):
    summary = results.summary(collect())
    assert summary["small"] == {
        "accuracy_calibrated": 0.82, "oos_recall_calibrated": 0.5, "size_mb": 16.0, "speedup": 5.0,
    }  # fmt: skip
    assert list(summary) == [*ROWS, SHAPE]
    assert summary[SHAPE] == {"size_mb": 320.0, "speedup": 0.25}
    json.dumps(summary, allow_nan=False)


def is_table(lines):
    return len({line.count("|") for line in lines}) == 1 and lines[1].replace("|", "").strip("-:") == ""


def test_markdown(outputs):
    text = results.markdown(collect(), MACHINE)
    lines = text.splitlines()
    assert is_table(lines[:6]) and lines[6] == ""
    assert lines[2] == (
        "| *bert-base-shape, unfit* | – | – | – | – | 320.0 | 40.00 (42.00) | ×0.25 (0.24–0.26) | ×1.0 |"
    )
    assert lines[3].startswith("| teacher | 80.0% |")
    assert lines[4] == (
        "| **small** | 81.0% | 82.0% | 83.0% | 50.0% | 16.0 | 2.00 (4.00) | ×5.0 (4.8–5.2) | ×20.0 |"
    )
    assert "a CPU; instruction sets for int8: avx2" in text
    assert "noisy" not in text
    assert [line for line in lines if "lost" in line] == [
        "These models lost more than 2 points of validation accuracy: smaller (9.5 less than small)."
    ]


def test_a_noisy_machine_is_said(outputs):
    """Where the interval of a speed-up is wider than a tenth to both sides."""
    measured("small", speedup_low=4.52, speedup_high=5.48)
    assert results.noise(collect()) == []
    measured("small", speedup_low=4.45, speedup_high=5.55)
    measured("smaller", speedup_low=9.9, speedup_high=20.0)
    [warning] = results.noise(collect())
    assert warning.startswith("**Too noisy to conclude.**") and ": small, smaller. Run" in warning
    for text in (
        results.markdown(collect(), MACHINE),
        results.latency_markdown(results.timed(), ROWS, MACHINE),
    ):
        assert warning in text.splitlines()


def test_latency_markdown(outputs):
    text = results.latency_markdown(results.timed(), ROWS, MACHINE)
    lines = text.splitlines()
    assert is_table(lines[:6]) and lines[6] == ""
    assert lines[0] == (
        "| model | p50, ms | p95 | p99 | over the teacher (95%) | over BERT-base's shape (95%) | in a batch "
        "of 1 (p95), ms | in a batch of 8 (p95), ms | over its parts | first answer after, s "
        "| peak memory, MB |"
    )
    assert [line.split(" | ")[0] for line in lines[2:6]] == [f"| {name}" for name in (SHAPE, *ROWS)]
    assert lines[4] == (
        "| small | 2.00 | 3.00 | 4.00 | ×5.0 (4.8–5.2) | ×20.0 (19.0–21.0) | 2.00 (4.00) | 1.00 (1.50) "
        "| ×1.10 | 3.00 | 200 |"
    )
    assert "1 thread of a machine with 2 cores (a CPU; instruction sets for int8: avx2)" in text
    assert "python 3.11.9, torch 2.13.0, onnxruntime 1.32.0" in text


def test_calibration_markdown(outputs):
    lines = results.calibration_markdown(collect()).splitlines()
    assert is_table(lines[:5])
    assert lines[2] == "| teacher | – | 1.25 | 12.5% | 6.2% | 50.0% | 75.0% | – | – |"
    assert lines[3] == "| **small** | energy | 1.25 | 12.5% | 6.2% | 50.0% | 75.0% | 99.0% | 3.0% |"
    # Where there is no out-of-scope label, no model has a threshold.
    assert results.calibration_markdown(collect(rows=["teacher"])).splitlines()[2].endswith("| – | – |")


def test_sizes_markdown(outputs):
    lines = results.sizes_markdown(collect()).splitlines()
    assert is_table(lines[:5])
    assert lines[3] == "| **small** | 2.00 | 10.00 | 1.00 | 13.00 | 3.00 | 16.00 | – |"
    assert lines[4] == "| smaller | 1.00 | 5.00 | 0.50 | 6.50 | 1.50 | 8.00 | 60.0% |"


def test_formats_of_a_packed_model(outputs):
    assert "packed" not in results.sizes_markdown(collect())
    folder = outputs / "calibrated" / "smaller"
    made = {"sparsity": {"overall": 0.6}, "bytes": {"dense": 3 * 2**20, "packed": 2**20}}
    model_folder.write_recipe(folder, "exported", "sparse storage", {}, **made)
    lines = results.sizes_markdown(collect()).splitlines()
    assert is_table(lines[-3:])
    assert lines[-3:] == ["| model | dense | packed |", "|---|---:|---:|", "| smaller | 3.00 | 1.00 |"]


def test_training_curves(outputs):
    curves = results.training_curves(ROWS)
    assert len(curves) == 9
    assert curves.columns.tolist() == ["model", "epoch", "loss", "eval_loss", "eval_accuracy", "sparsity"]
    assert curves["eval_accuracy"].tolist() == pytest.approx([0.3, 0.6, 0.9] * 3)
    write_json(outputs / "calibrated" / "teacher" / "recipe.json", {})
    assert results.training_curves(["teacher"]).empty


def test_pruning(outputs):
    points = results.pruning(ROWS)
    assert points.to_dict("records") == [
        {
            "model": "smaller", "method": "movement-hard", "sparsity": 0.6, "seed": 3,
            "validation_accuracy": 0.80, "test_accuracy": 0.82, "test_accuracy_calibrated": 0.83,
        }
    ]  # fmt: skip
    assert results.pruning(["teacher"]).empty
    assert results.pruning(["teacher"]).columns.tolist() == points.columns.tolist()
