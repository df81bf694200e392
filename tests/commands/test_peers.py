"""`intents peers` on a tiny teacher, with the peer that needs nothing more."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from clone import ROOT
from conftest import save_as_hub, tiny_bert, word_tokenizer

from stages import compress, evaluate, teacher
from stages.core import settings
from stages.data import tables
from stages.measurement.quality import accuracy, calibration
from stages.peers import comparison
from stages.peers.workshop import Peer

LABELS = tables.Labels(["transfer", "oos", "balance"], "oos")
WORDS = {"transfer": "send money to", "oos": "rent a car in", "balance": "my balance"}
READY = {"source": "hub", "model": "bert", "path": "bert", "sha256": None, "epochs": 0}
VARIANTS = {
    "export": {"teacher-ort": {"parent": "teacher"}},
    "rows": {"teacher": "table", "teacher-ort": "table"},
}
SHAPE = {
    "vocab_size": 100, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3,
    "intermediate_size": 8,
}  # fmt: skip
SMALL = {
    "warmup": 1, "rounds": 1, "queries": 2, "reference_every": 2, "batch_sizes": [2], "reference": SHAPE,
}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Data, params.yaml and a teacher of a hub's layout, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = [(f"{words} w{i}", intent) for i in range(20, 45) for intent, words in WORDS.items()]
    table = pd.DataFrame(rows, columns=["text", "intent"])
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS)
    save_as_hub(tiny_bert(), word_tokenizer(), tmp_path / "bert")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"teacher": values["teacher"] | READY, "variants": VARIANTS}
    values["benchmark"] |= SMALL
    values["load_test"]["scenarios"] = [{"name": "one", "model": "teacher"}]
    values["report"]["folder"] = "metrics/mine"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def test_a_comparison(project, intents, monkeypatch):
    teacher.main("teacher")
    compress.main("export", "teacher-ort")
    for name in VARIANTS["rows"]:
        evaluate.main(name)
    monkeypatch.setattr(
        Peer, "versions", property(lambda peer: {"scikit-learn": "1"} if peer.name == "tfidf" else None)
    )
    text = intents("peers")
    written = Path("metrics/mine/peers.md").read_text()
    assert written.strip() in text
    assert "| **tfidf** | 100.0% | 100.0% | 100.0% | 100.0% |" in written
    assert "Not installed here: olive, optimum, openvino, torchao, model2vec, setfit." in written
    models = json.loads(Path("metrics/mine/peers.json").read_text())["models"]
    assert {name: row["kind"] for name, row in models.items()} == {
        "teacher": "ours", "teacher-ort": "ours", "tfidf": "peer",
    }  # fmt: skip
    assert all(row["latency_mean_ms"] > 0 and row["speedup_over_bert_base"] > 0 for row in models.values())
    assert Path("metrics/mine/peers.png").read_bytes().startswith(b"\x89PNG")

    # As the stage `evaluate` measures our own.
    ours = json.loads(Path("evaluations/teacher/accuracy.json").read_text())
    assert models["teacher"]["accuracy_calibrated"] == ours["test"]["accuracy_calibrated"]
    labels = tables.read("test")["label"].to_numpy()
    logits = np.load(".peers/made/tfidf/test.npy")
    scores = yaml.safe_load(Path("params.yaml").read_text())["calibrate"]["scores"]
    fitted = calibration.fit(logits, labels, 1, scores, 1 / 3)
    expected = accuracy.measure(logits, labels, 1, fitted, 1 / 3)
    assert {key: models["tfidf"][key] for key in expected} == pytest.approx(expected)
    kept = json.loads(Path(".peers/made/tfidf/model/calibration.json").read_text())
    assert kept["temperature"] == fitted.temperature

    table = pd.DataFrame({"text": ["my balance"], "intent": ["balance"]})
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS)
    said = intents("peers", "--peer", "tfidf", "--model", "teacher-ort", fails=1)
    assert said == "error: evaluations/teacher is of other data than data/ has: run `dvc repro`\n"


def test_ours_by_default(project):
    """What is made without training, what headline.json names, models/best; as far as they are rows."""
    kd = {"parent": "teacher", "alpha": 0.1, "temperature": 4.0}
    values = yaml.safe_load(Path("params.yaml").read_text())
    names = [f"student-{i}" for i in range(4)]
    values["variants"]["distill"] = dict.fromkeys(names, kd)
    values["variants"]["rows"] |= dict.fromkeys(names[:3], "table")
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert comparison.ours(settings.load()) == ["teacher", "teacher-ort"]
    Path("metrics/mine").mkdir(parents=True)
    chosen = {"fast": "student-2", "tiny": None, "accurate": "student-3"}
    Path("metrics/mine/headline.json").write_text(json.dumps({k: {"model": m} for k, m in chosen.items()}))
    Path("models/best").mkdir(parents=True)
    Path("models/best/recipe.json").write_text('{"parent": "student-0"}')
    assert comparison.ours(settings.load()) == ["teacher", "teacher-ort", "student-2", "student-0"]


def test_what_is_asked_for_and_missing(project, intents, monkeypatch):
    monkeypatch.setattr(Peer, "python", "false")
    said = intents("peers", "--peer", "openvino", fails=1)
    assert said == "error: openvino is not installed: pip install -e '.[peers]'\n"
    said = intents("peers", "--peer", "tfidf", "--peer", "model2vec", fails=1)
    assert said.startswith(
        "error: model2vec is not installed: python -m venv .peers/environments/model2vec && "
    )
    monkeypatch.setattr(Peer, "python", sys.executable)
    said = intents("peers", "--peer", "tfidf", "--model", "studnet", fails=1)
    assert said == "error: there is no row 'studnet'; there are teacher, teacher-ort\n"
    assert "Invalid value for '--peer': 'olives' is not one of" in intents(
        "peers", "--peer", "olives", fails=2
    )
