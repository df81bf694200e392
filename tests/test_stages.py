"""Stages on models of the hub's layout, in process: the recipes that need a hub, without one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import tiny_bert, tiny_distilbert, word_tokenizer
from transformers import PreTrainedTokenizerFast

from stages import (
    benchmark,
    calibrate,
    distill,
    evaluate,
    prune,
    qat,
    report,
    runtime,
    select,
    serve,
    structured,
    teacher,
)
from stages.compression import kd as kd_module
from stages.compression.student import from_teacher_layers
from stages.intents import domains, tables

ROOT = Path(__file__).parents[1]
LABELS = tables.Labels(["transfer", "oos", "balance"], "oos")
QUERIES = {"send money to w20": "transfer", "my balance in w30": "balance", "rent a car": "oos"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with data, params.yaml, and two folders as a hub has them."""
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(QUERIES.items(), columns=["text", "intent"])
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS)
    domains.write({"banking": ["transfer", "balance"]})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(), unk_token="[UNK]", pad_token="[PAD]"
    )
    for name, model in (("bert", tiny_bert()), ("distilbert", tiny_distilbert())):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)

    def write(**sections):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, changes in sections.items():
            values[section] = {**values[section], **changes} if section != "student" else changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    write.folder = tmp_path
    return write


READY = {"source": "hub", "model": "bert", "sha256": None, "epochs": 0}
HUB_STUDENT = {"init": "hub", "model": "distilbert", "freeze_embeddings": False}


def logits_of(folder):
    return runtime.load(folder).logits(list(QUERIES))


def recipe(name):
    return json.loads(Path(f"models/{name}/recipe.json").read_text())


def test_a_teacher_that_is_ready(project):
    """No training; its head in the data's order; its logits over the training split are kept."""
    project(teacher=READY)
    teacher.main()
    assert json.loads(Path("models/teacher/config.json").read_text())["id2label"] == {
        "0": "transfer", "1": "oos", "2": "balance",
    }  # fmt: skip
    np.testing.assert_allclose(np.load("logits/train.npy"), logits_of("models/teacher"), atol=1e-5)
    assert recipe("teacher")["history"] == []


def test_a_teacher_that_is_fine_tuned(project):
    project(teacher={**READY, "epochs": 20, "learning_rate": 1e-2})
    teacher.main()
    history = recipe("teacher")["history"]
    assert len(history) == 20
    losses = [entry["loss"] for entry in history]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_hubs_student(project):
    project(teacher=READY, student=HUB_STUDENT, distill={"epochs": 2})
    teacher.main()
    distill.main("distilled")
    config = json.loads(Path("models/distilled/config.json").read_text())
    assert (config["model_type"], config["n_layers"]) == ("distilbert", 1)
    assert config["id2label"] == {"0": "transfer", "1": "oos", "2": "balance"}
    made = recipe("distilled")
    assert (made["parent"], made["parameters"]["alpha"]) == ("teacher", 0.1)


def test_a_variants_own_layers(project, monkeypatch):
    monkeypatch.setattr(kd_module, "distil", lambda *_: [])  # untrained
    kd = {"alpha": 0.5, "temperature": 2.0, "parent": "teacher"}
    layers = {"init": "teacher-layers", "layers": [0, 1, 2], "freeze_embeddings": True}
    project(
        teacher=READY,
        student=layers,
        variants={"distill": {"distilled": {**kd, "layers": [0, 2]}, "fine-tuned": kd}},
    )
    teacher.main()
    for name, count in (("distilled", 2), ("fine-tuned", 3)):
        distill.main(name)
        assert json.loads(Path(f"models/{name}/config.json").read_text())["n_layers"] == count
        assert len(recipe(name)["parameters"]["student"]["layers"]) == count
        assert "layers" not in recipe(name)["parameters"]


def test_students_of_a_students_recipes(project):
    """What is in a recipe is what was used: none of what only other methods or stages read."""
    kd = {"alpha": 0.5, "temperature": 2.0, "parent": "distilled"}
    project(
        teacher=READY,
        student=HUB_STUDENT,
        variants={
            "prune": {
                "magnitude": {**kd, "method": "magnitude-one-shot", "sparsity": 0.5, "seed": 7},
                "soft-movement": {**kd, "method": "movement-soft", "penalty": 10.0},
            },
            "structured": {"structured": {**kd, "heads": 0.25, "feed_forward": 0.75}},
        },
    )
    teacher.main()
    stages = {
        "distilled": distill,
        "magnitude": prune,
        "soft-movement": prune,
        "structured": structured,
        "qat": qat,
    }
    for name, stage in stages.items():
        stage.main(name)
        assert recipe(name)["parent"] == ("teacher" if name == "distilled" else "distilled")
    used = {name: recipe(name)["parameters"] for name in stages}
    assert (used["magnitude"]["sparsity"], used["magnitude"]["seed"]) == (0.5, 7)
    assert recipe("magnitude")["sparsity"]["overall"] == 0.5
    assert (used["soft-movement"]["penalty"], used["soft-movement"]["seed"]) == (10.0, 0)
    assert "sparsity" not in used["soft-movement"]
    assert recipe("structured")["layer_shapes"] == [[3, 8]]
    assert logits_of("models/structured").shape == (3, 3)
    assert (used["qat"]["per_channel"], used["qat"]["reduce_range"]) == (True, True)
    assert not {"calibration", "calibration_queries"} & set(used["qat"])


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def measured(project, **sections):
    """teacher, calibrate and evaluate of a teacher that is ready, the only row."""
    defaults = {
        "variants": {"rows": {"teacher": "table"}},
        "serve": {"scenarios": {"one": {"model": "teacher"}}},
    }
    project(teacher=READY, **(defaults | sections))
    teacher.main()
    calibrate.main("teacher")
    evaluate.main("teacher")
    return json.loads(Path("evaluations/teacher.json").read_text())


def test_a_calibrated_model_is_the_model_and_its_calibration(project):
    measured(project)
    given = files("calibrated/teacher")
    assert set(json.loads(given.pop("calibration.json"))) == {"temperature", "threshold"}
    assert given == files("models/teacher")
    for split in ("validation", "test"):
        logits = np.load(f"logits/{split}/teacher.npy")
        np.testing.assert_allclose(logits, logits_of("models/teacher"), atol=1e-5)


def test_evaluation_is_kept(project):
    result = measured(project)
    assert list(result) == ["sizes", "validation", "test"]
    right = logits_of("models/teacher").argmax(-1) == [0, 2, 1]
    assert result["test"] == pytest.approx(result["validation"])
    assert result["test"]["accuracy"] == pytest.approx(right.mean())
    assert result["test"]["oos_recall"] == float(right[2])
    served = [p.label for p in runtime.load("calibrated/teacher").predict(list(QUERIES))]
    right = np.array(served) == list(QUERIES.values())
    assert result["test"]["accuracy_calibrated"] == pytest.approx(right.mean())
    assert result["test"]["oos_recall_calibrated"] == float(right[2])
    np.save("logits/validation/teacher.npy", np.eye(3, dtype=np.float32)[[0, 2, 0]])
    evaluate.main("teacher")
    again = json.loads(Path("evaluations/teacher.json").read_text())
    assert again["validation"]["accuracy"] == pytest.approx(2 / 3)
    assert again["test"] == result["test"]


def test_data_without_an_out_of_scope_label(project):
    table = pd.DataFrame({"text": list(QUERIES), "intent": ["transfer", "oos", "balance"]})
    tables.write("data", dict.fromkeys(tables.SPLITS, table), tables.Labels(LABELS.names, None))
    result = measured(project)
    assert json.loads(Path("calibrated/teacher/calibration.json").read_text())["threshold"] is None
    assert result["test"]["accuracy_calibrated"] == result["test"]["accuracy"]
    assert result["test"]["oos_recall_calibrated"] is None


SHORT = {
    "warmup": 1,
    "rounds": 2,
    "runs_per_round": 1,
    "batch_sizes": [1, 2],
    "batches_every": 1,
    "starts": 1,
}
SHAPE = {
    "vocab_size": 60, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3,
    "intermediate_size": 24,
}  # fmt: skip


def declared(stage):
    """What dvc.yaml says that it writes to the report's folder."""
    definition = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    return {next(iter(out)).removeprefix("${report.folder}/") for out in definition["outs"]}


def test_the_calibrated_model_is_timed_and_reported(project, capsys):
    """The teacher alone, nothing distilled, nothing pruned; from what measuring leaves."""
    evaluated = measured(project, benchmark={**SHORT, "reference": SHAPE})
    shutil.rmtree("models")
    benchmark.main()
    times = pd.read_csv("benchmark/times.csv")
    loads = ["query", "tokenization", "session", "batch of 1", "batch of 2"]
    assert times.groupby(["model", "load"]).size().to_dict() == {
        (name, load): 2 for name in ("teacher", "bert-base-shape") for load in loads
    }
    summary = pd.read_csv("benchmark/latency.csv", index_col="model")
    assert set(summary.index) == {"teacher", "bert-base-shape"}
    assert summary["size_mb"]["teacher"] == pytest.approx(evaluated["sizes"]["size_mb"], abs=1e-4)
    assert summary["size_mb"]["bert-base-shape"] < summary["size_mb"]["teacher"]
    assert summary["speedup"]["teacher"] == summary["speedup_over_bert_base"]["bert-base-shape"] == 1
    assert summary.notna().all(axis=None) and (summary > 0).all(axis=None)
    assert {path.name for path in Path("calibrated").iterdir()} == {"teacher"}

    select.main()
    report.main()
    assert set(files("metrics")) == declared("report") | {"best.json"}
    given = files("calibrated/teacher")
    assert {**files("models/best"), "recipe.json": given["recipe.json"]} == given
    assert json.loads(Path("models/best/recipe.json").read_text())["lineage"] == [
        {"stage": "teacher", "name": "teacher"}
    ]
    assert "| **teacher** |" in capsys.readouterr().out
    assert set(pd.read_csv("metrics/domains.csv")["domain"]) == {"banking", "oos"}
    plain, fitted = pd.read_csv("metrics/accuracy.csv")["accuracy"]
    assert [plain, fitted] == pytest.approx(
        [evaluated["test"]["accuracy"], evaluated["test"]["accuracy_calibrated"]], abs=1e-4
    )
    wrong = pd.read_csv("metrics/confusions.csv")["queries"].sum()
    assert wrong == round(3 * (1 - fitted))


def test_serving(project):
    """Every step, the plan and the service; what dvc.yaml says is written, and nothing else."""
    scenarios = {"fixed": {"model": "teacher", "length": 16}, "cached": {"model": "teacher", "cached": True}}
    measured(
        project,
        serve={
            "scenarios": scenarios, "workers": 1, "rounds": 2, "seconds": 0.1, "loads": [0.5],
            "requests": 50, "clients": 2,
        },
    )  # fmt: skip
    shutil.rmtree("models")
    serve.main()
    assert set(files("metrics")) == declared("serve")
    found = json.loads(Path("metrics/serving.json").read_text())
    assert list(found) == [*scenarios, "service", "machine"]
    assert found["cached"]["hit_rate"] == 1  # of three queries
    assert found["fixed"]["requests_per_second"] > 0 and found["fixed"]["gain"] is None
    service = found["service"]
    assert (service["right"], service["wrong"], service["lost"], service["workers_killed"]) == (50, 0, 0, 1)
    assert pd.read_csv("metrics/serving.csv")["scenario"].tolist() == list(scenarios)


def test_more_workers_than_cores(project):
    measured(project, serve={"scenarios": {"one": {"model": "teacher"}}, "workers": 1000})
    with pytest.raises(SystemExit, match=r"serve\.workers is 1000: there are"):
        serve.main()


def test_an_interrupted_stage_leaves_nothing_half_written(project, monkeypatch):
    project(teacher={**READY, "epochs": 2})
    monkeypatch.setattr(
        "transformers.Trainer.train", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(SystemExit) as stopped:
        teacher.main()
    assert stopped.value.code == 130
    assert list(Path("models").iterdir()) == []
    assert not Path("logits").exists()


def test_an_unreachable_hub_is_one_line(project, capsys):
    project(teacher={**READY, "model": "nobody/nothing"})
    with pytest.raises(SystemExit, match=r"error: cannot load 'nobody/nothing'"):
        teacher.main()


def test_a_student_of_a_student_is_refused(project):
    """teacher-layers needs a BERT; a DistilBERT as teacher is said in one line."""
    from_teacher_layers(tiny_bert(), [0]).save_pretrained("small")
    (project.folder / "small" / "tokenizer.json").write_bytes(Path("bert/tokenizer.json").read_bytes())
    (project.folder / "small" / "tokenizer_config.json").write_bytes(
        Path("bert/tokenizer_config.json").read_bytes()
    )
    project(teacher={**READY, "model": "small"})
    teacher.main()
    with pytest.raises(SystemExit, match="the teacher is a distilbert"):
        distill.main("distilled")
