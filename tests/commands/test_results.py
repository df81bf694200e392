import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from clone import ROOT

from stages.data import tables
from stages.measurement import identity


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
        assert latency == pytest.approx(row["latency_mean_ms"], abs=0.0051)
        assert speedup == pytest.approx(row["speedup_over_bert_base"], abs=0.051)
    (best,) = results.index[results["best"]]
    assert f"\n* {best} is models/best: the fastest model within 2 points of the teacher's" in text


def test_how_sure_the_thresholds_are(intents, report, monkeypatch):
    """What another draw of validation changes, for the model where it changes most."""
    monkeypatch.chdir(ROOT)
    table = pd.read_csv(report / "tables" / "results.csv")
    table["threshold_accuracy_low"], table["threshold_accuracy_high"] = 0.9, 0.911
    table.loc[1, ["threshold_accuracy_low", "threshold_accuracy_high"]] = 0.8, 0.823
    table.to_csv(report / "tables" / "results.csv", index=False)
    said = "Another draw of validation moves an accuracy by up to 2.3 points (95%)."
    assert said in " ".join(intents("results", report).split())
    table.drop(columns="threshold_accuracy_low").to_csv(report / "tables" / "results.csv", index=False)
    assert "Another draw" not in intents("results", report)


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


TABLES = Path("report/tables")


@pytest.fixture
def own(report, models, monkeypatch, tmp_path):
    """A working directory whose params name `report`, which was measured on its data and a model in it."""
    params = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("folder: metrics/sample\n", "folder: report\n"))
    write_data("my balance")
    shutil.copytree(models / "student-ort", "calibrated/distilled")
    table = pd.read_csv(TABLES / "results.csv")
    table["data_sha256"], table["model_sha256"] = identity.of_data(), "0" * 64
    table.loc[table["model"] == "distilled", "model_sha256"] = identity.of_model(Path("calibrated/distilled"))
    table.to_csv(TABLES / "results.csv", index=False)


def write_data(text):
    table = pd.DataFrame({"text": [text, "rent a car"], "intent": ["balance", "oos"]})
    tables.write("data", dict.fromkeys(tables.SPLITS, table), tables.Labels(["balance", "oos"], "oos"))


def test_numbers_of_the_models_and_data_here_are_shown(own, intents):
    assert len(rows(intents("results"))) == len(pd.read_csv(TABLES / "results.csv"))
    shutil.rmtree("data")
    assert len(rows(intents("results"))) == len(pd.read_csv(TABLES / "results.csv"))


def test_numbers_of_another_model_are_left_out(own, intents):
    before = rows(intents("results"))
    Path("calibrated/distilled/calibration.json").write_text("{}")
    text = intents("results")
    assert rows(text) == {name: row for name, row in before.items() if name != "distilled"}
    (line,) = (line for line in text.splitlines() if line.startswith("  distilled "))
    assert line.split()[1:] == ["–"] * 4
    assert "Measured on other models than calibrated/ has, and left out: distilled. Run `dvc repro`." in text


@pytest.mark.parametrize("folder", [(), ("report",)])
def test_numbers_of_other_data_are_left_out(folder, own, intents):
    write_data("my cards")
    text = " ".join(intents("results", *folder).split())
    assert not rows(text) and "%" not in text.split("Accuracy:")[0]
    assert "Measured on other data than data/ has, and left out: teacher, " in text


def test_a_report_that_says_not_of_what(own, intents):
    table = pd.read_csv(TABLES / "results.csv").drop(columns="data_sha256")
    table.to_csv(TABLES / "results.csv", index=False)
    text = " ".join(intents("results").split())
    assert not rows(text) and "The report does not say on which models and data it was measured" in text


def rewritten(name, change):
    return lambda: (TABLES / name).write_text(change((TABLES / name).read_text()))


POINTER = "version https://git-lfs.github.com/spec/v1\n"
DAMAGE = {
    "results gone": (lambda: (TABLES / "results.csv").unlink(), "results.csv is missing"),
    "machine gone": (lambda: (TABLES / "machine.json").unlink(), "machine.json is missing"),
    "selected gone": (lambda: (TABLES / "selected.json").unlink(), "selected.json is missing"),
    "empty": (rewritten("results.csv", lambda text: ""), "results.csv is empty"),
    "pointer": (rewritten("results.csv", lambda text: POINTER), "results.csv is a Git LFS pointer"),
    "conflict": (rewritten("results.csv", lambda text: text + "=======\n"), "has a merge conflict"),
    "a row twice": (
        rewritten("results.csv", lambda text: text + text.splitlines()[-1] + "\n"), "results.csv has the row",
    ),
    "a column less": (
        rewritten("results.csv", lambda text: text.replace("size_mb", "size")), "has no column 'size_mb'",
    ),
    "no best": (rewritten("results.csv", lambda text: text.replace("True", "False")), "results.csv none"),
    "machine cut": (rewritten("machine.json", lambda text: text[:40]), "machine.json is not JSON"),
    "machine of nothing": (rewritten("machine.json", lambda text: "{}"), "machine.json has no 'cpu'"),
    "another selected": (
        rewritten("selected.json", lambda text: json.dumps({"model": "teacher", "reason": "it is"})),
        "selected.json names teacher, and results.csv",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_report_is_one_line(damage, report, tmp_path, monkeypatch, intents):
    """Of its own, and of the one beside it."""
    monkeypatch.chdir(tmp_path)
    params = (ROOT / "params.yaml").read_text().replace("metrics/sample\n", f"{ROOT}/metrics/sample\n")
    (tmp_path / "params.yaml").write_text(params.replace("beside: null", "beside: report"))
    harm, said = DAMAGE[damage]
    harm()
    arguments = [["results", "report"]]
    if damage not in ("no best", "another selected"):
        arguments.append(["results"])
    for given in arguments:
        error = intents(*given, fails=1)
        assert error.startswith("error: report/tables/") and said in error and len(error.splitlines()) == 1


def test_no_report_is_one_line(intents, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = intents("results", tmp_path, fails=1)
    assert line.endswith("results.csv is missing: make the report with `dvc repro`\n")
