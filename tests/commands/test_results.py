import re
import shutil

import pandas as pd
import pytest
from clone import ROOT


@pytest.fixture
def report(tmp_path):
    """A copy of the report of the default."""
    shutil.copytree(ROOT / "metrics" / "sample" / "tables", tmp_path / "report" / "tables")
    return tmp_path / "report"


def rows(text):
    """The cells of each line that has a speed-up."""
    lines = [line.removeprefix("*").split() for line in text.splitlines() if " ×" in line]
    return {name: [float(re.sub("[%×]", "", cell)) for cell in cells if cell not in ("MB", "ms")]
            for name, *cells in lines}  # fmt: skip


def test_the_numbers_are_those_of_the_report(intents, report, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = intents("results", report)
    results = pd.read_csv(report / "tables" / "results.csv", index_col="model")
    shown = rows(text)
    assert list(shown) == list(results.index)
    for name, (accuracy, size, latency, speedup) in shown.items():
        row = results.loc[name]
        assert accuracy == pytest.approx(100 * row["accuracy_calibrated"], abs=0.051)
        assert size == pytest.approx(row["size_mb"], abs=0.051)
        assert latency == pytest.approx(row["latency_p50_ms"], abs=0.0051)
        assert speedup == pytest.approx(row["speedup_over_bert_base"], abs=0.051)
    (best,) = results.index[results["best"]]
    assert f"\n* {best} is models/best: the fastest model within 2 points of the teacher's" in text


def test_without_a_folder_it_is_that_of_the_params(intents, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = intents("results")
    assert text == intents("results", "metrics/sample")
    assert max(map(len, text.splitlines())) <= 100


def test_another_report_beside_it(intents, report, monkeypatch, tmp_path):
    """As experiment=clinc150-quick has it: models of the same name, and – where there is none."""
    monkeypatch.chdir(tmp_path)
    params = (ROOT / "params.yaml").read_text()
    params = params.replace("folder: metrics/sample\n", f"folder: {report}\n")
    (tmp_path / "params.yaml").write_text(params.replace("beside: null", f"beside: {ROOT}/metrics/clinc150"))
    text = intents("results")
    theirs = pd.read_csv(ROOT / "metrics/clinc150/tables/results.csv", index_col="model")
    ours = pd.read_csv(report / "tables/results.csv", index_col="model")
    for line in text.splitlines():
        if " ×" in line:
            name, *_, accuracy, speedup = line.removeprefix("*").split()
            if name in theirs.index:
                assert accuracy == f"{100 * theirs['accuracy_calibrated'][name]:.1f}%"
                assert speedup == f"×{theirs['speedup_over_bert_base'][name]:.1f}"
            else:
                assert line.split()[-2:] == ["–", "–"]
    assert set(ours.index) & set(theirs.index) and set(ours.index) - set(theirs.index)
    assert "metrics/clinc150, on 1 thread of a machine with 2 cores" in " ".join(text.split())


def test_no_report_is_one_line(intents, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = intents("results", tmp_path, fails=1)
    assert line.endswith("results.csv is missing: make the report with `dvc repro`\n")
