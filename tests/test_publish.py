import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from stages import model_folder, params, publish

ROOT = Path(__file__).parents[1]
NAME = "distilled-ort-int8"


@pytest.fixture
def best(models, tmp_path, monkeypatch):
    """models/best, a copy of a small ONNX model that calls itself `NAME`, and a report of it."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(models / "student-ort", "models/best", dirs_exist_ok=True)
    model_folder.write_recipe(Path("models/best"), NAME, "selection", {})
    row = {"accuracy": 0.8591, "accuracy_calibrated": 0.9156, "size_mb": 17.6, "speedup": 10.2}
    Path("metrics").mkdir()
    Path("metrics/summary.json").write_text(json.dumps({"teacher": row, NAME: row}))
    return Path("models/best")


def test_the_folder_and_its_card(best):
    publish.main(["--output", "out"])
    for file in best.iterdir():
        assert (Path("out") / file.name).read_bytes() == file.read_bytes()
    card = ModelCard.load("out/README.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-classification"
    assert [result.metric_value for result in card.data.eval_results] == [0.8591, 0.9156]
    assert f"# {NAME}" in card.text and "| 85.9% | 91.6% | 17.6 | ×10.2 |" in card.text
    for label in model_folder.label_names(best):
        assert label in card.text
    stages = [line.split("`")[1] for line in card.text.splitlines() if line.startswith("1. `")]
    assert stages == [stage for stage, _ in params.load().variants.lineage(NAME)]


def test_the_code_of_the_card_runs(best):
    publish.main(["--output", "out"])
    code = Path("out/README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd="out", capture_output=True, text=True)
    assert done.stdout.strip() in model_folder.label_names(best), done.stderr


def test_without_a_hub_the_folder_is_there(best):
    """HF_HUB_OFFLINE is set: nothing is sent anywhere."""
    with pytest.raises(SystemExit, match=r"error: not uploaded, out is ready: .*offline"):
        publish.main(["--output", "out", "--upload", "someone/intents"])
    assert yaml.safe_load(Path("out/README.md").read_text().split("---")[1])["license"] == "apache-2.0"


def test_a_name_that_the_hub_does_not_take(best):
    with pytest.raises(SystemExit, match="error: not uploaded, out is ready: Repo id"):
        publish.main(["--output", "out", "--upload", "a/b/c"])


def test_nothing_is_overwritten(best):
    Path("out").mkdir()
    with pytest.raises(SystemExit, match="error: out is there already"):
        publish.main(["--output", "out"])


def test_no_model(best):
    with pytest.raises(SystemExit, match="nowhere is no model folder"):
        publish.main(["--model", "nowhere"])
