"""The whole pipeline, on the smoke recipe, in a clone: what runs, what runs again, what comes out."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from clone import ENV, Clone, ran
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow


def summary_of(clone):
    return json.loads((clone.path / "metrics" / "smoke" / "summary.json").read_text())


def evaluation_of(clone, name):
    return json.loads((clone.path / "evaluations" / name / "accuracy.json").read_text())


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.first = clone("dvc", "exp", "run", "-S", "experiment=smoke")
    clone.first_summary = summary_of(clone)
    return clone


def test_first_run_runs_every_stage(clone):
    stages = set(clone("dvc", "stage", "list", "--name-only").split())
    assert ran(clone.first) == stages and len(stages) > 20


def test_results(clone):
    summary = summary_of(clone)
    rows = [
        "teacher",
        "distilled",
        "distilled-ort-int8",
        "magnitude-packed",
        "structured-vocabulary-qat-ort-int8",
        "exits-ort",
    ]
    assert list(summary) == [*rows, "bert-base-shape"]
    assert list(summary["bert-base-shape"]) == ["size_mb", "speedup"]
    assert all(value > 0 for value in summary.pop("bert-base-shape").values())
    for values in summary.values():
        assert list(values) == [
            "accuracy_calibrated",
            "oos_recall_calibrated",
            "threshold_accuracy_low",
            "threshold_accuracy_high",
            "size_mb",
            "speedup",
        ]
        assert all(0 <= value <= 1 for key, value in values.items() if key[:3] in ("acc", "oos"))
        assert values["speedup"] > 0
    assert summary["teacher"]["speedup"] == 1
    packed, pruned = (evaluation_of(clone, name) for name in ("magnitude-packed", "magnitude"))
    assert packed["test"] == pruned["test"]
    assert packed["sizes"]["encoder_mb"] < 0.5 * pruned["sizes"]["encoder_mb"]
    size = {name: values["size_mb"] for name, values in summary.items()}
    assert size["structured-vocabulary-qat-ort-int8"] < 0.3 * size["distilled-ort-int8"]
    assert size["distilled-ort-int8"] < 0.3 * size["distilled"] < 0.3 * size["teacher"]
    times = pd.read_csv(clone.path / "benchmark" / "times.csv")
    counts = times.groupby(["model", "load"]).size().unstack()
    assert set(counts.index) == {*rows, "bert-base-shape"}
    assert (counts["test query"].drop("bert-base-shape") == 8).all()  # 2 rounds of 4
    assert counts["test query"]["bert-base-shape"] == 4
    for load in ("query", "tokenization", "session"):
        assert (counts[load] == 4).all()  # 2 rounds of 2
    assert (counts["batch of 4"] == 2).all()
    report = clone.path / "metrics" / "smoke"
    pictures = list((report / "pictures").iterdir())
    assert len(pictures) == 10
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    sections = (report / "README.md").read_text().split("\n## ")
    assert sum(all(name in section for name in rows) for section in sections) >= 5
    sweep = pd.read_csv(report / "tables" / "pruning.csv", index_col="model")
    assert sweep["method"].to_dict() == {"magnitude": "magnitude-gradual"}
    assert sweep["sparsity"]["magnitude"] == pytest.approx(0.6, abs=1e-4)
    assert (sweep["seed"] == 0).all()


def test_the_best_is_a_model_to_deploy(clone):
    folder = clone.path / "models" / "best"
    recipe = json.loads((folder / "recipe.json").read_text())
    chosen = clone.path / "calibrated" / recipe["parent"]
    for file in chosen.iterdir():
        if file.name != "recipe.json":
            assert (folder / file.name).read_bytes() == file.read_bytes()
    assert recipe["lineage"][0] == {"stage": "teacher", "name": "teacher"}
    assert recipe["lineage"][-1]["name"] == recipe["parent"]


def test_metrics_show_a_few_numbers_a_model(clone):
    shown = json.loads(clone("dvc", "metrics", "show", "--json"))[""]["data"]
    (numbers,) = (file["data"] for name, file in shown.items() if name.endswith("summary.json"))
    assert numbers == summary_of(clone)


def test_techniques_leave_what_they_should(clone):
    """What each technique of the chain removed, seen in the last model's own files."""
    models = clone.path / "models"
    zeros = [
        (tensor == 0).mean()
        for name, tensor in load_file(models / "magnitude" / "model.safetensors").items()
        if ".layer." in name and tensor.ndim == 2
    ]
    assert zeros == pytest.approx([0.6] * len(zeros), abs=1e-4)
    chain = models / "structured-vocabulary-qat-ort-int8"
    config = json.loads((chain / "config.json").read_text())
    assert config["layer_shapes"] == [[6, 768]]
    vocabulary = json.loads((chain / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == config["vocab_size"] < 10_000
    kept = sum(t.size for t in load_file(models / "structured" / "model.safetensors").values() if t.ndim == 2)
    assert kept < sum(
        t.size for t in load_file(models / "distilled" / "model.safetensors").values() if t.ndim == 2
    )


def test_accuracy_is_what_predict_gives(clone):
    """The accuracy of a row, counted again through the command line."""
    test = pd.read_parquet(clone.path / "data" / "test.parquet")
    names = json.loads((clone.path / "data" / "labels.json").read_text())["names"]
    done = subprocess.run(
        [sys.executable, "-m", "stages.commands", "predict", "--model", "calibrated/distilled-ort-int8"],
        input="\n".join(test["text"]),
        cwd=clone.path,
        env=ENV,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == test["text"].tolist()
    right = [answer["label"] == names[label] for answer, label in zip(answers, test["label"], strict=True)]
    expected = summary_of(clone)["distilled-ort-int8"]["accuracy_calibrated"]
    assert sum(right) / len(right) == pytest.approx(expected, abs=0.003)


def test_second_run_does_nothing(clone):
    assert ran(clone("dvc", "repro")) == set()


def test_alpha_and_temperature_leave_data_and_teacher_alone(clone):
    changes = ("-S", "distill.alpha=0.3", "-S", "distill.temperature=2.5")
    again = ran(clone("dvc", "exp", "run", "-S", "experiment=smoke", *changes, "evaluate@distilled"))
    assert again == {"distill@distilled", "evaluate@distilled"}
    clone.changed = evaluation_of(clone, "distilled")


def test_back_to_the_first_values_nothing_is_trained(clone):
    """The cache has them all."""
    assert ran(clone("dvc", "exp", "run", "-S", "experiment=smoke")) <= {"select", "report"}
    assert evaluation_of(clone, "distilled") != clone.changed
    assert summary_of(clone) == clone.first_summary


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distill.alpha=1.5", "params.yaml: distill.alpha is 1.5: should be less than or equal to 1"),
        ("distill.alhpa=0.5", "Key 'alhpa' is not in struct"),
    ],
)
def test_bad_params_stop_before_anything_is_trained(clone, override, message):
    output = clone("dvc", "exp", "run", "-S", "experiment=smoke", "-S", override, ok=False)
    assert message in output
    assert "Traceback" not in output


def test_plots_are_drawn(clone):
    clone("dvc", "plots", "show", "-o", "plots")
    assert "accuracy" in (clone.path / "plots" / "index.html").read_text()
