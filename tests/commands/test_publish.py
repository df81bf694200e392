import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from stages.core import model_folder, settings
from stages.core.atomic import write_json

ROOT = Path(__file__).parents[2]
NAME = "distilled-ort-int8"


@pytest.fixture
def best(models, tmp_path, monkeypatch):
    """models/best, a copy of a small ONNX model that calls itself `NAME`, and a report of it."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(models / "student-ort", "models/best", dirs_exist_ok=True)
    model_folder.write_recipe(Path("models/best"), NAME, "select", {})
    write_json("models/best/calibration.json", {"temperature": 1.0, "threshold": None})
    row = {"accuracy": 0.8591, "accuracy_calibrated": 0.9156, "size_mb": 17.6, "speedup": 10.2}
    tables = Path("metrics/sample/tables")
    tables.mkdir(parents=True)
    pd.DataFrame({"teacher": row, NAME: row}).T.rename_axis("model").to_csv(tables / "results.csv")
    return Path("models/best")


def test_the_folder_and_its_card(best, intents):
    intents("publish", "--output", "out")
    for file in best.iterdir():
        assert (Path("out") / file.name).read_bytes() == file.read_bytes()
    card = ModelCard.load("out/README.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-classification"
    assert [result.metric_value for result in card.data.eval_results] == [0.8591, 0.9156]
    assert f"# {NAME}" in card.text and "| 85.9% | 91.6% | 17.6 | ×10.2 |" in card.text
    for label in model_folder.label_names(best):
        assert label in card.text
    stages = [line.split("`")[1] for line in card.text.splitlines() if line.startswith("1. `")]
    assert stages == [step["stage"] for step in settings.load().variants.lineage(NAME)]


def test_the_code_of_the_card_runs(best, intents):
    intents("publish", "--output", "out")
    code = Path("out/README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd="out", capture_output=True, text=True)
    assert done.stdout.strip() in model_folder.label_names(best), done.stderr


def test_without_a_hub_the_folder_is_there(best, intents):
    """HF_HUB_OFFLINE is set: nothing is sent anywhere."""
    error = intents("publish", "--output", "out", "--upload", "someone/intents", fails=1)
    assert error.startswith("error: not uploaded, out is ready: ") and "offline" in error
    assert yaml.safe_load(Path("out/README.md").read_text().split("---")[1])["license"] == "apache-2.0"


def test_a_name_that_the_hub_does_not_take(best, intents):
    error = intents("publish", "--output", "out", "--upload", "a/b/c", fails=1)
    assert error.startswith("error: not uploaded, out is ready: Repo id")


def test_nothing_is_overwritten(best, intents):
    Path("out").mkdir()
    assert intents("publish", "--output", "out", fails=1).startswith("error: out exists: remove it")


def test_no_model(best, intents):
    assert "nowhere is no model folder" in intents("publish", "--model", "nowhere", fails=1)
