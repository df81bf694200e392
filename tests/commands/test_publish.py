import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import save_as_hub, tiny_bert, word_tokenizer
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification

from stages import runtime
from stages.checkpoints import encoder, pretrained, sparse_storage
from stages.core import model_folder, settings
from stages.core.atomic import write_json
from stages.data import tables
from stages.measurement import identity
from stages.techniques import dynamic_int8, export, structured
from stages.techniques.settings import Export

ROOT = Path(__file__).parents[2]
NAME = "distilled-ort-int8"
RESULTS = Path("metrics/sample/tables/results.csv")


def without_heads(parent, folder):
    model = encoder.load(parent)
    structured.remove(model, [([0, 2], list(range(0, 32, 2)))] * len(encoder.blocks(model)))
    model.save_pretrained(folder)


def int8(parent, folder):
    dynamic_int8.quantize(parent, folder, per_channel=True, reduce_range=True)


@pytest.fixture
def best(models, tmp_path, monkeypatch):
    """models/best, a copy of a small ONNX model that calls itself `NAME`, and a report of it."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(models / "student-ort", "models/best", dirs_exist_ok=True)
    model_folder.write_recipe(Path("models/best"), NAME, "select", {})
    write_json("models/best/calibration.json", {"temperature": 1.0, "threshold": None})
    table = pd.DataFrame({"text": ["my balance", "rent a car"], "intent": ["balance", "oos"]})
    names = ["balance", "oos", "transfer"]
    tables.write("data", dict.fromkeys(tables.SPLITS, table), tables.Labels(names, "oos"))
    row = {
        "accuracy": 0.8591, "accuracy_calibrated": 0.9156, "size_mb": 17.6, "speedup": 10.2,
        "score": "energy",
        "model_sha256": identity.of_model(Path("models/best")), "data_sha256": identity.of_data(),
    }  # fmt: skip
    RESULTS.parent.mkdir(parents=True)
    pd.DataFrame([{"model": "teacher", **row}, {"model": NAME, **row}]).to_csv(RESULTS, index=False)
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


def written(parent, folder):
    export.apply(parent, folder, Export(parent=parent.name))


def test_the_licence_of_outliers(best, intents):
    values = yaml.safe_load(Path("params.yaml").read_text())
    near = "stages/data/near_misses/clinc150.yaml"
    values["data"] |= {"outliers": [{"path": near}, {"path": "mine.txt"}], "outliers_path": "mine.txt"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    intents("publish", "--output", "out")
    said = f"Apache-2.0; and {near}, CC BY 4.0; and mine.txt, **state its licence here**."
    assert said in Path("out/README.md").read_text()


KINDS = {  # what the chain of techniques makes of the parent, and the library of others that reads it
    "torch": ("transformers", "student"),
    "packed": ("intent-compressor", "student", sparse_storage.pack),
    "structured": ("intent-compressor", "student", without_heads),
    "torch-int8": ("intent-compressor", "student", int8),
    "onnx": ("onnx", "student-ort"),
    "structured-onnx": ("onnx", "student", without_heads, written),
    "onnx-int8": ("onnx", "student-ort", int8),
    "onnx-int8-packed": ("intent-compressor", "student-ort", int8, sparse_storage.pack),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_snippet_of_the_card_runs(best, intents, monkeypatch, capsys, kind):
    """As it stands there, in the published folder; it answers what the model does."""
    library, parent, *techniques = KINDS[kind]
    for number, technique in enumerate(techniques):
        folder = Path(f"models/{number}")
        folder.mkdir()
        technique(Path("models") / parent, folder)
        parent = folder.name
    folder = Path("models") / parent
    save_as_hub(tiny_bert(), word_tokenizer(), "hub")
    pretrained.save_tokenizer("hub", folder, max_length=16)
    model_folder.write_recipe(folder, NAME, "select", {})
    write_json(folder / "calibration.json", {"temperature": 1.0, "threshold": None})
    intents("publish", "--model", folder, "--output", "out")
    card = ModelCard.load("out/README.md")
    assert card.data.library_name == library
    snippets = re.findall(r"```(\w+)\n(.*?)```", card.text, re.DOTALL)
    assert [language for language, _ in snippets] == ["python"] * (1 + (library != KINDS["packed"][0])) + [
        "bash"
    ]
    label = runtime.load(folder).predict(["what is my balance"])[0].label
    monkeypatch.chdir("out")
    for language, code in snippets[:-1]:
        exec(code, {})
        assert label in capsys.readouterr().out, language
    predict, serve = (shlex.split(line) for line in snippets[-1][1].splitlines())
    assert predict[0] == "intents" and intents(*predict[1:]).split()[0] == label
    assert serve == ["intents", "serve", "--model", "."]  # which tests/serving does


def test_what_transformers_cannot_read(models):
    """Why the cards of these kinds offer the package alone."""
    without_heads(models / "student", models / "structured")
    with pytest.raises(RuntimeError):
        AutoModelForSequenceClassification.from_pretrained(models / "structured")


def retrained(best):
    with (best / "model.onnx").open("ab") as opened:
        opened.write(b" ")


def calibrated_anew(best):
    write_json(best / "calibration.json", {"temperature": 2.0, "threshold": None})


def other_test_queries(best):
    table = pd.DataFrame({"text": ["my balance", "rent a van"], "intent": ["balance", "oos"]})
    tables.write("data", dict.fromkeys(tables.SPLITS, table), tables.read_labels())


def changed(**columns):
    return lambda best: pd.read_csv(RESULTS).assign(**columns).to_csv(RESULTS, index=False)


def rows(*names):
    return lambda best: pd.read_csv(RESULTS, index_col="model").loc[list(names)].to_csv(RESULTS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (retrained, "has those of another model"),
        (calibrated_anew, "has those of another model"),
        (other_test_queries, "has those of other data than data/ has"),
        (lambda best: shutil.rmtree("data"), "cannot be told without data/test.parquet"),
        (lambda best: RESULTS.unlink(), "is not made yet"),
        (rows("teacher"), f"has no row {NAME}"),
        (changed(model_sha256=None), "does not say on which model and data"),
        (changed(data_sha256=None), "does not say on which model and data"),
        (
            lambda best: pd.read_csv(RESULTS).drop(columns="model_sha256").to_csv(RESULTS, index=False),
            "does not say on which model and data",
        ),
    ],
)
def test_numbers_of_another_are_left_out(change, reason, best, intents):
    change(best)
    intents("publish", "--output", "out")
    card = ModelCard.load("out/README.md")
    assert f"No accuracy and no speed is given here: {RESULTS}" in card.text or "whether" in card.text
    assert reason in card.text
    assert not card.data.eval_results and "85.9" not in card.content and "10.2" not in card.content


def test_that_is_said(best, intents):
    from click.testing import CliRunner

    from stages.commands import main

    retrained(best)
    result = CliRunner().invoke(main, ["publish", "--output", "out"])
    assert result.stderr.splitlines() == [
        f"note: the card has no accuracy and no speed: {RESULTS} has those of another model {NAME}, as by "
        "another training or calibration"
    ]


def test_a_model_of_other_labels_is_of_other_data(best, intents):
    table = pd.DataFrame({"text": ["a", "b"], "intent": ["hotel", "flight"]})
    tables.write("data", dict.fromkeys(tables.SPLITS, table), tables.Labels(["flight", "hotel"], None))
    intents("publish", "--output", "out")
    card = ModelCard.load("out/README.md")
    assert card.data.license is None and "state it and its licence here" in card.text


def test_without_a_threshold_there_is_no_accuracy_with_it(best, intents):
    changed(score=None)(best)
    intents("publish", "--output", "out")
    card = ModelCard.load("out/README.md")
    assert [result.metric_value for result in card.data.eval_results] == [0.8591]
    assert "| 85.9% | – | 17.6 | ×10.2 |" in card.text


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\n", "version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_report_is_one_line(text, best, intents):
    RESULTS.write_text(text)
    error = intents("publish", "--output", "out", fails=1)
    assert error.startswith(f"error: {RESULTS} ") and len(error.splitlines()) == 1
    assert not Path("out").exists() and not list(Path().glob(".out*"))


def test_a_copy_under_another_name(best, intents):
    """Which is in no variant."""
    shutil.copytree(best, "mine")
    model_folder.write_recipe(Path("mine"), "parent", "quantize", {"method": "dynamic"})
    intents("publish", "--model", "mine", "--output", "out")
    card = Path("out/README.md").read_text()
    assert f"{RESULTS} has no row mine" in card
    assert '1. `quantize`: {"name": "mine", "method": "dynamic"}' in card


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
