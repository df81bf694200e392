import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from stages.reporting import figures, results

ROWS = ["teacher", "small", "smaller"]
MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 1, "int8_instructions": ["avx2"]}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """models/, evaluations/ and benchmark/ of three models, numbers made up."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    measured = {"teacher": (0.90, 0.80, 10.0), "small": (0.895, 0.81, 2.0), "smaller": (0.80, 0.82, 1.0)}
    (tmp_path / "evaluations").mkdir()
    lines = ["model,latency_mean_ms,latency_std_ms,latency_p50_ms,latency_p95_ms,latency_p99_ms,speedup"]
    for name, (validation, test, ms) in measured.items():
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        history = [
            {"epoch": i, "loss": 2.0 / i, "eval_accuracy": 0.3 * i, "eval_loss": 1.0} for i in (1, 2, 3)
        ]
        recipe = {"parent": "teacher", "technique": "distillation", "parameters": {}, "history": history}
        (folder / "recipe.json").write_text(json.dumps(recipe))
        weights = rng.normal(0, 0.05, (16, 16)).astype(np.float32)
        if name == "smaller":
            weights[:, :8] = 0
        save_file(
            {"distilbert.transformer.layer.0.ffn.lin1.weight": weights, "classifier.weight": weights + 9},
            folder / "model.safetensors",
        )
        accuracies = {"accuracy": test, "accuracy_in_scope": test + 0.05, "oos_recall": None}
        evaluation = {
            "size_mb": ms * 8,
            "validation": {**accuracies, "accuracy": validation},
            "test": accuracies,
        }
        (tmp_path / "evaluations" / f"{name}.json").write_text(json.dumps(evaluation))
        lines.append(f"{name},{ms + 0.1},0.2,{ms},{ms + 1},{ms + 2},{10 / ms}")
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "latency.csv").write_text("\n".join(lines))
    return tmp_path


def test_best_is_the_fastest_within_tolerance_on_validation(outputs):
    assert results.collect(ROWS, 0.01)["best"].tolist() == [False, True, False]
    assert results.collect(ROWS, 0.0)["best"].tolist() == [True, False, False]
    assert results.collect(ROWS, 0.2)["best"].tolist() == [False, False, True]


def test_between_models_as_fast_the_more_accurate_is_best(outputs):
    path = outputs / "benchmark" / "latency.csv"
    path.write_text(path.read_text().replace("5.0\n", "9.5\n"))  # small's speed-up, to smaller's 10
    assert results.collect(ROWS, 0.2)["best"].tolist() == [False, True, False]


def test_summary(outputs):
    summary = results.summary(results.collect(ROWS, 0.01))
    assert summary["small"] == {
        "accuracy": 0.81, "accuracy_in_scope": 0.86, "oos_recall": None, "size_mb": 16.0,
        "latency_ms": 2.0, "speedup": 5.0,
    }  # fmt: skip
    assert json.loads(json.dumps(summary)) == summary


def test_markdown(outputs):
    text = results.markdown(results.collect(ROWS, 0.01), MACHINE)
    lines = text.splitlines()
    assert lines[3] == "| **small** | 81.0% | 86.0% | – | 16.0 | 2.00 (4.00) | ×5.0 |"
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert "a CPU; int8 instructions: avx2" in text


def test_training_curves(outputs):
    curves = results.training_curves(ROWS)
    assert len(curves) == 9
    assert curves.columns.tolist() == ["model", "epoch", "loss", "eval_loss", "eval_accuracy", "sparsity"]
    assert curves["eval_accuracy"].tolist() == pytest.approx([0.3, 0.6, 0.9] * 3)


def test_encoder_weights_leave_out_the_head(outputs):
    weights = figures.encoder_weights(outputs / "models" / "smaller")
    assert weights.shape == (256,)
    assert (weights == 0).mean() == 0.5
    assert np.abs(weights).max() < 1


def test_pictures_are_drawn(outputs):
    figures.accuracy_against_latency(results.collect(ROWS, 0.01), outputs / "a")
    figures.training_curves(results.training_curves(ROWS), outputs / "b")
    figures.weight_histogram(ROWS, outputs / "c")
    for name in "abc":
        assert (outputs / name).read_bytes().startswith(b"\x89PNG")


def test_same_numbers_same_picture(outputs):
    for name in ("a", "b"):
        figures.accuracy_against_latency(results.collect(ROWS, 0.01), outputs / name)
    assert (outputs / "a").read_bytes() == (outputs / "b").read_bytes()


def test_no_history_is_an_empty_table(outputs):
    (outputs / "models" / "bare").mkdir()
    (outputs / "models" / "bare" / "recipe.json").write_text("{}")
    assert isinstance(results.training_curves(["bare"]), pd.DataFrame)
    assert results.training_curves(["bare"]).empty
