import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from stages.core import model_folder
from stages.core.atomic import write_json
from stages.core.errors import UserError
from stages.measurement import identity
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
    times = {
        "size_mb": size,
        "latency_queries": 1200 // ms,
        "latency_mean_ms": ms + 0.1,
        "latency_std_ms": 0.2,
    }
    times |= {"latency_p50_ms": ms, "latency_p95_ms": ms + 1, "latency_p99_ms": ms + 2}
    for key, baseline in (("speedup", 10), ("speedup_over_bert_base", 40)):
        times |= {key: baseline / ms, f"{key}_low": 0.95 * baseline / ms, f"{key}_high": 1.05 * baseline / ms}
    times |= {"query_ms": ms - 0.1, "overhead": 1.1, "batch_1_ms": ms, "batch_1_p95_ms": 2 * ms}
    times |= {"batch_8_ms": ms / 2}
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
        spread = {"same_score": 0.75, "low": 0.25, "high": 0.625}
        sure = {"spread": None if threshold is None else spread}
        write_json(folder / "calibration.json", asdict(Calibration(1.25, threshold)) | sure)
        interval = {"threshold_accuracy_low": None, "threshold_accuracy_high": None}
        if threshold is not None:
            interval = {"threshold_accuracy_low": test - 0.005, "threshold_accuracy_high": test + 0.015}
        detected = {} if threshold is None else {"auroc": 0.99, "fpr_at_95_recall": 0.03}
        evaluation = {
            "sizes": {
                "size_mb": ms * 8, "embeddings_mb": ms, "encoder_mb": 5 * ms, "head_mb": 0.5 * ms,
                "tokenizer_mb": 1.5 * ms,
            },
            "out_of_scope_share": 0.1,
            "validation": accuracies(validation),
            "test": {**accuracies(test), **detected, **interval},
        }  # fmt: skip
        write_json(folder / "config.json", {"id2label": {}})
        (tmp_path / "evaluations" / name).mkdir(parents=True)
        write_json(tmp_path / "evaluations" / name / "accuracy.json", evaluation)
    (tmp_path / "benchmark").mkdir()
    known_by_their_bytes()
    times = {name: timed(made[-1], 8 * made[-1]) for name, made in [*MODELS.items(), (SHAPE, (40.0,))]}
    pd.DataFrame(times).T.rename_axis("model").to_csv("benchmark/latency.csv")
    return tmp_path


def known_by_their_bytes():
    """What the stages note of the models that they measured."""
    digests = {name: identity.of_model(Path("calibrated") / name) for name in MODELS}
    for name, digest in digests.items():
        values = {"model_sha256": digest, "data_sha256": "of the data"}
        write_json(Path("evaluations") / name / "measured.json", values)
    write_json("benchmark/measured.json", digests)


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


def test_which_model_and_data_a_row_is_of(outputs):
    table = collect()
    assert set(table["data_sha256"]) == {"of the data"}
    assert table["model_sha256"]["small"] == identity.of_model(Path("calibrated/small"))
    assert table["score"].fillna("–").tolist() == ["–", "energy", "energy"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda: write_json("calibrated/small/calibration.json", {"temperature": 2, "threshold": None}),
         "evaluations/small/measured.json is of another model than calibrated/small: run `dvc repro`"),
        (lambda: write_json("benchmark/measured.json", dict.fromkeys(MODELS, "another")),
         "benchmark/measured.json: teacher is another model than calibrated/teacher: run `dvc repro`"),
        (lambda: write_json("benchmark/measured.json", {}), "benchmark/measured.json has no 'teacher'"),
        (lambda: Path("evaluations/small/measured.json").unlink(), "evaluations/small/measured.json is "),
        (lambda: Path("evaluations/small/accuracy.json").write_text("{}\n"),
         "evaluations/small/accuracy.json has no 'sizes'"),
        (lambda: Path("benchmark/latency.csv").unlink(), "benchmark/latency.csv is missing"),
        (lambda: Path("benchmark/latency.csv").write_text(""), "benchmark/latency.csv is empty"),
        (lambda: without_rows("small"), "benchmark/latency.csv has no row small"),
        (lambda: without_rows(SHAPE), f"benchmark/latency.csv has no row {SHAPE}"),
    ],
)  # fmt: skip
def test_what_select_and_report_refuse(harm, said, outputs):
    harm()
    with pytest.raises(UserError) as error:
        collect()
    assert str(error.value).startswith(said)


def without_rows(*names):
    times = pd.read_csv("benchmark/latency.csv", index_col="model")
    times.drop(index=list(names)).to_csv("benchmark/latency.csv")


def test_what_cannot_be_had_is_a_dash(outputs):
    """Of two rounds of two runs."""
    nothing = dict.fromkeys(["latency_p95_ms", "latency_p99_ms", "batch_1_p95_ms", "batch_8_p95_ms"])
    nothing |= {f"{key}_{end}": None for key in results.SPEEDUPS for end in ("low", "high")}
    for name in (*ROWS, SHAPE):
        measured(name, **nothing)
    text = results.latency_markdown(results.timed(), ROWS, MACHINE)
    assert text.splitlines()[4].startswith(
        "| small | 2.10 | 2.00 | – | – | ×5.0 | ×20.0 | 1.90 | 2.00 | 1.00 | ×1.10 |"
    )
    both = text + results.markdown(collect(), MACHINE)
    assert both.count("**No intervals.** An interval takes 6 `benchmark.rounds`.") == 2
    assert "nan" not in both


def test_without_a_threshold_it_is_said(outputs):
    assert "applies the out-of-scope threshold" in results.markdown(collect(), MACHINE)
    for name in ROWS:
        write_json(outputs / "calibrated" / name / "calibration.json", asdict(Calibration(1.0, None)))
    known_by_their_bytes()
    for text in (results.markdown(collect(), MACHINE), results.calibration_markdown(collect())):
        assert "it takes 20 validation queries out of scope, and 20 in scope." in text
        assert "applies the out-of-scope threshold" not in text and "nan" not in text


def test_summary(outputs):
    summary = results.summary(collect())
    assert summary["small"] == {
        "accuracy_calibrated": 0.82, "oos_recall_calibrated": 0.5, "threshold_accuracy_low": 0.805,
        "threshold_accuracy_high": 0.825, "size_mb": 16.0, "speedup": 5.0,
    }  # fmt: skip
    assert summary["teacher"]["threshold_accuracy_low"] is None
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
        "| *bert-base-shape, unfit* | – | – | – | – | 320.0 | 40.10 (42.00) | ×0.25 (0.24–0.26) | ×1.0 |"
    )
    assert lines[3].startswith("| teacher | 80.0% |")
    assert lines[4] == (
        "| **small** | 81.0% | 82.0% | 83.0% | 50.0% | 16.0 | 2.10 (4.00) | ×5.0 (4.8–5.2) | ×20.0 |"
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


def test_who_left_early(outputs):
    assert "early exits" not in results.markdown(collect(), MACHINE)
    file = Path("evaluations/small/accuracy.json")
    values = json.loads(file.read_text())
    values["test"]["exits"] = [{"layer": 0, "share": 0.25}, {"layer": 2, "share": 0.5}]
    write_json(file, values)
    table = collect()
    words = "25.0% after the embeddings, 50.0% after layer 2"
    assert table["exits"].dropna().to_dict() == {"small": words}
    assert f"Test queries that leave at early exits: small: {words}." in results.markdown(table, MACHINE)


def test_latency_markdown(outputs):
    text = results.latency_markdown(results.timed(), ROWS, MACHINE)
    lines = text.splitlines()
    assert is_table(lines[:6]) and lines[6] == ""
    assert lines[0] == (
        "| model | mean, ms | p50 | p95 | p99 | over the teacher (95%) | over BERT-base's shape (95%) "
        "| fixed query, ms | in a batch of 1 (p95), ms | in a batch of 8 (p95), ms | over its parts "
        "| first answer after, s | peak memory, MB |"
    )
    assert [line.split(" | ")[0] for line in lines[2:6]] == [f"| {name}" for name in (SHAPE, *ROWS)]
    assert lines[4] == (
        "| small | 2.10 | 2.00 | 3.00 | 4.00 | ×5.0 (4.8–5.2) | ×20.0 (19.0–21.0) | 1.90 | 2.00 (4.00) "
        "| 1.00 (1.50) | ×1.10 | 3.00 | 200 |"
    )
    assert (
        "are over 120 queries of the test split" in text
    )  # as many as the model that answers fewest of ROWS
    assert f"{SHAPE} is slow and answers 30 of them" in text
    assert "1 thread of a machine with 2 cores (a CPU; instruction sets for int8: avx2)" in text
    assert "python 3.11.9, torch 2.13.0, onnxruntime 1.32.0" in text


def test_calibration_markdown(outputs):
    lines = results.calibration_markdown(collect()).splitlines()
    assert is_table(lines[:5])
    assert lines[2] == "| teacher | – | – | – | 1.25 | 12.5% | 6.2% | 50.0% | 75.0% | – | – |"
    assert lines[3] == (
        "| **small** | energy (75%) | 0.50 (0.25 to 0.62) | 82.0% (80.5–82.5) | 1.25 | 12.5% | 6.2% | 50.0% "
        "| 75.0% | 99.0% | 3.0% |"
    )
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


def test_the_bytes_of_a_vocabulary_by_script(outputs):
    scripts = {"cjk": [2.0, 0.25], "latin": [4.0, 3.0], "other": [0.5, 0.5]}
    model_folder.write_recipe(
        outputs / "calibrated" / "smaller", "exported", "quantize", {}, embedding_mb_by_script=scripts
    )
    assert results.sizes_markdown(collect()).splitlines()[-3:] == [
        "| model | all | cjk | latin | other |",
        "|---|---:|---:|---:|---:|",
        "| smaller | 6.50 → 3.75 | 2.00 → 0.25 | 4.00 → 3.00 | 0.50 → 0.50 |",
    ]


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
