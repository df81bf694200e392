import base64
import json
import shutil
from pathlib import Path

import explored
import numpy as np
import pandas as pd
import pytest
from clone import ROOT

from stages.core import settings
from stages.core.atomic import write_json
from stages.core.errors import UserError
from stages.data import tables
from stages.measurement.quality import accuracy
from stages.page import content, html
from stages.reporting.results import calibration


@pytest.fixture
def copy(root, tmp_path, monkeypatch):
    """A working directory of one's own."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def collect(folder=explored.REPORT):
    return content.collect(folder, settings.load().variants, "dvc repro")


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_models_have_the_numbers_of_the_tables(copy):
    shown = collect()
    results = pd.read_csv(explored.REPORT / "tables/results.csv", index_col="model")
    assert [model["name"] for model in shown["models"]] == list(results.index)
    for model in shown["models"]:
        row = results.loc[model["name"]]
        assert model["latency_ms"] == row["latency_ms"] and model["size_mb"] == row["size_mb"]
        assert model["low"] < model["high"]
        assert model["steps"][0]["name"] == "bert-base-shape" and model["steps"][0]["accuracy"] is None
        assert model["steps"][-1]["name"] == model["name"]
        assert model["steps"][-1]["accuracy"] == row["accuracy_calibrated"]
    assert shown["make"] == "dvc repro" and shown["lacks"] is None


def test_a_lineage_has_the_stages_between_what_was_measured(copy):
    models = {model["name"]: model for model in collect()["models"]}
    steps = models["structured-vocabulary-ort-int8"]["steps"]
    assert [(step["name"], step["stages"]) for step in steps] == [
        ("bert-base-shape", []),
        ("teacher", ["teacher"]),
        ("distilled", ["distill"]),
        ("structured-vocabulary-ort-int8", ["structured", "vocabulary", "export", "quantize"]),
    ]
    families = {name: model["family"] for name, model in models.items()}
    assert families["teacher-ort-int8"] == "teacher" and families["distilled-ort-int8"] == "distilled"
    assert families["magnitude-ort-int8-packed"] == "pruned"
    assert families["structured-vocabulary-ort-int8"] == "structured"


def test_a_lineage_that_conf_does_not_know_is_that_of_the_table(copy):
    shown = content.collect(explored.REPORT, None, "dvc repro")
    steps = {model["name"]: model["steps"] for model in shown["models"]}["structured-vocabulary-ort-int8"]
    assert [step["name"] for step in steps] == [
        "bert-base-shape", "teacher", "distilled", "structured-vocabulary-ort-int8",
    ]  # fmt: skip


def test_thresholds_give_the_numbers_of_the_library(copy):
    shown = collect()["validation"]
    labels = tables.read("validation")["label"].to_numpy()
    outside = unpacked(shown["outside"], np.uint8).astype(bool)
    assert list(outside) == list(labels == 1)
    assert shown["models"]
    for name, model in shown["models"].items():
        scores, right = unpacked(model["scores"], "<f4"), unpacked(model["right"], np.uint8).astype(bool)
        logits, fitted = np.load(f"evaluations/{name}/validation.npy"), calibration(name)
        measured = accuracy.measure(logits, labels, 1, fitted, explored.SHARE)
        refused = scores < np.float32(model["value"])
        assert (right & ~refused)[~outside].mean() == pytest.approx(measured["accuracy_in_scope_calibrated"])
        assert refused[outside].mean() == pytest.approx(measured["oos_recall_calibrated"])


def test_answers_are_the_calibrated_ones(copy):
    shown = collect()["queries"]
    test = tables.read("test")
    assert shown["texts"] == test["text"].tolist() and shown["intents"] == explored.LABELS.names
    assert list(unpacked(shown["truth"], "<u2")) == test["label"].tolist()
    results = pd.read_csv(explored.REPORT / "tables/results.csv", index_col="model")
    for name, answers in shown["answers"].items():
        share = (unpacked(answers, "<u2") == test["label"]).mean()
        assert share == pytest.approx(results["accuracy_calibrated"][name])


def test_a_fresh_clone_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "metrics/clinc150-quick/tables", "metrics/clinc150-quick/tables")
    shown = content.collect(Path("metrics/clinc150-quick"), None, "dvc exp run -S experiment=clinc150-quick")
    assert shown["validation"] is None and shown["queries"] is None
    assert "not here" in shown["lacks"]
    assert len(shown["models"]) == 4 and shown["training"] and shown["confusions"]


def test_other_models_and_data_are_not_shown_as_the_reports(copy):
    file = Path("evaluations/teacher/measured.json")
    write_json(file, json.loads(file.read_text()) | {"model_sha256": "of another"})
    shown = collect()
    assert "teacher" not in shown["queries"]["answers"] and "teacher" not in shown["validation"]["models"]
    assert "distilled" in shown["queries"]["answers"]
    labels = json.loads(Path("data/labels.json").read_text())
    labels["names"][0] = "another"
    write_json("data/labels.json", labels)
    shown = collect()
    assert shown["queries"] is None and "other queries" in shown["lacks"]


def test_peers(copy):
    row = {"kind": "peer", "size_mb": 3.5, "latency_mean_ms": 0.75, "accuracy_calibrated": 0.625}
    rows = {"tfidf": row, "teacher": row | {"kind": "ours"}}
    write_json(explored.REPORT / "peers.json", {"models": rows})
    (peer,) = [model for model in collect()["models"] if model["family"] == "peers"]
    assert (peer["name"], peer["latency_ms"], peer["size_mb"]) == ("tfidf", 0.75, 3.5)


def test_a_damaged_table_is_one_line(copy):
    (explored.REPORT / "tables/accuracy.csv").write_text("model,kind\n")
    with pytest.raises(UserError, match=r"accuracy\.csv has no column 'accuracy'"):
        collect()


def test_texts_cannot_end_the_script(copy):
    """The content stands in a script element: "<" is escaped, and JSON gives it back."""
    shown = collect()
    shown["queries"]["texts"][0] = "</script><!-- {script} {title}"
    page = html.write(shown)
    assert page.count("</script>") == 2
    start = page.index('id="content">') + len('id="content">')
    read = json.loads(page[start : page.index("</script>", start)])
    assert read["queries"]["texts"] == shown["queries"]["texts"] and read["live"] is None


def test_the_file_loads_nothing(copy):
    page = html.write(collect())
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert " src=" not in page and "@import" not in page
