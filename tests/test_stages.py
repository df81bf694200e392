"""Stages on models of the hub's layout, in process: the recipes that need a hub, without one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import bpe_tokenizer, save_as_hub, tiny_bert, tiny_distilbert, tiny_roberta, word_tokenizer
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

from stages import (
    benchmark,
    compress,
    evaluate,
    general,
    load_test,
    logits,
    report,
    runtime,
    select,
    soft_labels,
    teacher,
)
from stages.core.model_folder import TOKENIZER
from stages.data import domains, outliers, tables
from stages.measurement import identity
from stages.techniques import distill
from stages.techniques.settings import TECHNIQUES
from stages.techniques.students import from_teacher_layers
from stages.training import loop

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
    outliers.write([])
    for name, model in (("bert", tiny_bert()), ("distilbert", tiny_distilbert())):
        save_as_hub(model, word_tokenizer(), tmp_path / name)

    def write(**sections):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, changes in sections.items():
            values[section] = {**values[section], **changes}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    write.folder = tmp_path
    return write


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
READY = {"source": "hub", "model": "bert", "path": "bert", "sha256": None, "epochs": 0}
HUB_STUDENT = {"init": "hub", "model": "distilbert", "freeze_embeddings": False}
ONE = {"name": "one", "model": "teacher"}


def teach(*names):
    """The stages of the teachers, "teacher" and those called `names`, up to the soft labels."""
    for name in ("teacher", *names):
        teacher.main(name)
        logits.main(name)
    soft_labels.main()


def logits_of(folder):
    return runtime.load(folder).logits(list(QUERIES))


def recipe(name):
    return json.loads(Path(f"models/{name}/recipe.json").read_text())


def test_a_teacher_that_is_ready(project):
    """No training; its head in the data's order; its logits over the training split are kept."""
    project(teacher=READY)
    teach()
    assert json.loads(Path("models/teacher/config.json").read_text())["id2label"] == {
        "0": "transfer", "1": "oos", "2": "balance",
    }  # fmt: skip
    np.testing.assert_allclose(np.load("soft_labels/train.npy"), logits_of("models/teacher"), atol=1e-5)
    assert recipe("teacher")["history"] == []


def test_a_teacher_says_what_it_is_before_it_is_trained(project, capsys):
    save_as_hub(tiny_roberta(["LABEL_0", "LABEL_1", "LABEL_2"]), bpe_tokenizer(), "roberta")
    texts = [f"{text} {i}" for text in QUERIES for i in range(4)]
    order = ["oos", "transfer", "balance"]
    tables.write(
        "data", dict.fromkeys(tables.SPLITS, pd.DataFrame({"text": texts, "intent": order * 4})), LABELS
    )
    own = {**READY, "model": "roberta", "path": "roberta", "labels": order}
    project(teacher=own)
    teacher.main("teacher")
    answers = [p.label for p in runtime.load("models/teacher").predict(texts)]
    said = capsys.readouterr().out
    right = np.mean([answer == label for answer, label in zip(answers, order * 4, strict=True)])
    assert "roberta: a roberta, 1 layers, 16 wide, 0.0 million parameters" in said
    assert "matched by the order of teacher.labels" in said
    assert f"validation accuracy before any training: {right:.1%}" in said


def test_a_teacher_that_is_fine_tuned(project):
    project(teacher={**READY, "epochs": 20, "learning_rate": 1e-2})
    teach()
    history = recipe("teacher")["history"]
    assert len(history) == 20
    losses = [entry["loss"] for entry in history]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_mean_of_teachers_that_read_differently(project, capsys):
    """Each with its own tokenizer; models/teacher stays the first; a student's recipe names them."""
    save_as_hub(tiny_roberta(), bpe_tokenizer(), "roberta")
    own = {"other": {"model": "roberta"}}
    project(teacher=READY, teachers=own, distill={"student": HUB_STUDENT, "epochs": 1})
    teach("other")
    assert ids("models/teacher") == ids("bert") and ids("models/other") == ids("roberta")
    logits_each = [logits_of(f"models/{name}") for name in ("teacher", "other")]
    assert abs(logits_each[0] - logits_each[1]).max() > 0.1
    for split in ("train", "validation"):
        np.testing.assert_allclose(np.load(f"logits/other/{split}.npy"), logits_each[1], atol=1e-5)
    mean = (logits_each[0] + logits_each[1] * logits_each[0].std() / logits_each[1].std()) / 2
    np.testing.assert_allclose(np.load("soft_labels/train.npy"), mean, atol=1e-4)
    right = {
        name: float((logits.argmax(-1) == [0, 2, 1]).mean())
        for name, logits in zip(("teacher", "other", "mean"), [*logits_each, mean], strict=True)
    }
    said = [f"{name}: {100 * accuracy:.1f}% of validation" for name, accuracy in right.items()]
    assert capsys.readouterr().out.splitlines()[-3:] == said
    compress.main("distill", "distilled")
    made = recipe("distilled")["teachers"]
    assert made["validation_accuracy"] == right
    assert made["teachers"]["other"]["model"] == "roberta"


def test_a_frozen_encoder_is_given_a_head(project):
    tiny_bert().bert.save_pretrained("bert")  # without one
    encoder = load_file("bert/model.safetensors")
    project(teacher={**READY, "freeze_encoder": True})
    teach()
    weights = load_file("models/teacher/model.safetensors")
    assert all(np.array_equal(weights[f"bert.{name}"], value) for name, value in encoder.items())
    assert logits_of("models/teacher").argmax(-1).tolist() == [0, 2, 1]
    assert recipe("teacher")["history"] == []


UNLABELLED = ["send w21", "my w22 car", "a"]


@pytest.mark.parametrize("learns", [True, False])
def test_unlabelled_text(project, learns, monkeypatch):
    """Its soft labels are the teacher's logits, row by row; without the setting, it is left out."""
    table = pd.DataFrame(QUERIES.items(), columns=["text", "intent"])
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS, UNLABELLED)
    project(
        data={"unlabelled": {"changed": 1}},
        teacher=READY,
        distill={"student": HUB_STUDENT, "epochs": 2, "unlabelled": learns},
    )
    teach()
    expected = runtime.load("models/teacher").logits(UNLABELLED)
    np.testing.assert_allclose(np.load("soft_labels/unlabelled.npy"), expected, atol=1e-5)
    seen = []
    fit = loop.fit
    monkeypatch.setattr(
        loop, "fit", lambda trainer, identity: seen.extend(trainer.train_dataset) or fit(trainer, identity)
    )
    compress.main("distill", "distilled")
    assert [row["labels"] for row in seen] == [0, 2, 1] + 3 * [loop.UNLABELLED] * learns
    for row, text, logits_ in zip(
        seen, [*QUERIES, *UNLABELLED], [*logits_of("models/teacher"), *expected], strict=False
    ):
        assert row["input_ids"].tolist() == ids("distilbert", text)
        np.testing.assert_allclose(row["teacher_logits"], logits_, atol=1e-5)
    assert [entry["epoch"] for entry in recipe("distilled")["history"]] == [1, 2]


def test_a_hubs_student(project):
    project(teacher=READY, distill={"epochs": 2, "student": HUB_STUDENT})
    teach()
    compress.main("distill", "distilled")
    config = json.loads(Path("models/distilled/config.json").read_text())
    assert (config["model_type"], config["n_layers"]) == ("distilbert", 1)
    assert config["id2label"] == {"0": "transfer", "1": "oos", "2": "balance"}
    made = recipe("distilled")
    assert (made["parent"], made["parameters"]["alpha"]) == ("teacher", 0.1)


def ids(folder, text="my Balance"):
    return Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text).ids


ALONE = {"alpha": 1.0, "temperature": 1.0, "parent": "teacher"}  # the labels, without the teacher


@pytest.mark.parametrize(
    ("large", "small", "length"), [("roberta", "distilbert", 12), ("bert", "roberta", 24)]
)
def test_a_student_reads_with_its_own_tokenizer(project, large, small, length, capsys):
    """It answers rightly what it was trained on: only if it was trained on the ids that it is served."""
    save_as_hub(tiny_roberta(), bpe_tokenizer(), "roberta")
    project(
        data={"max_length": length},
        teacher={**READY, "model": large, "path": large},
        distill={"student": {**HUB_STUDENT, "model": small}, "epochs": 40, "learning_rate": 3e-2},
        variants={"distill": {"distilled": ALONE}},
    )
    teach()
    compress.main("distill", "distilled")
    assert ids("models/teacher") == ids(large) != ids(small) == ids("models/distilled")
    answers = runtime.load("models/distilled").predict(list(QUERIES))
    assert [answer.label for answer in answers] == list(QUERIES.values())
    longest = min(length, 20 if small == "roberta" else 24)
    assert len(ids("models/distilled", "my " * 30)) == longest
    said = "'roberta' reads 20 tokens at most: queries are cut there, not at 24\n"
    assert (said in capsys.readouterr().out) == (longest < length)

    compress.main("export", "distilled-ort")
    for file in TOKENIZER:  # which children inherit
        assert files("models/distilled-ort")[file] == files("models/distilled")[file]
    np.testing.assert_allclose(logits_of("models/distilled-ort"), logits_of("models/distilled"), atol=1e-4)


def test_a_student_of_a_robertas_layers_is_a_roberta(project):
    save_as_hub(tiny_roberta(num_hidden_layers=3), bpe_tokenizer(), "roberta")
    layers = {"init": "teacher-layers", "layers": "spaced-2", "freeze_embeddings": True}
    project(
        teacher={**READY, "model": "roberta", "path": "roberta"}, distill={"student": layers, "epochs": 1}
    )
    teach()
    compress.main("distill", "distilled")
    config = json.loads(Path("models/distilled/config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("roberta", 2)
    project(
        teacher={**READY, "model": "distilbert", "path": "distilbert", "labels": LABELS.names},
        distill={"student": {**layers, "architecture": "bert"}},
    )
    before = sorted(Path("models").iterdir())
    with pytest.raises(
        SystemExit, match="a bert is not made of layers of a distilbert, which compute otherw"
    ):
        teacher.main("teacher")
    assert sorted(Path("models").iterdir()) == before


@pytest.mark.parametrize("model", ["bert", "roberta"])
def test_a_checkpoint_of_another_task(project, model, capsys):
    """Two labels: with epochs a new head, without one line; as a student from the hub, a new head."""
    two = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    if model == "bert":
        save_as_hub(
            BertForSequenceClassification(tiny_bert().config.from_dict(tiny_bert().config.to_dict() | two)),
            word_tokenizer(),
            "sentiment",
        )
    else:
        save_as_hub(tiny_roberta(["negative", "positive"]), bpe_tokenizer(), "sentiment")
    project(
        teacher={**READY, "model": "sentiment", "path": "sentiment", "epochs": 1},
        distill={"student": {**HUB_STUDENT, "model": "sentiment"}, "epochs": 1},
    )
    teach()
    compress.main("distill", "distilled")
    said = "'sentiment' was trained on 2 other labels: it gets a new head over 3\n"
    assert capsys.readouterr().out.count(said) == 2
    assert logits_of("models/teacher").shape == logits_of("models/distilled").shape == (3, 3)
    for name in ("teacher", "distilled"):
        config = json.loads(Path(f"models/{name}/config.json").read_text())
        assert list(config["id2label"].values()) == LABELS.names
    project(teacher={**READY, "model": "sentiment", "path": "sentiment"})
    with pytest.raises(SystemExit, match=r"'sentiment' was trained on 2 other labels .*set teacher.epochs"):
        teach()


def test_a_killed_stages_scratch_is_removed_by_the_next(project):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = Path(f"models/.teacher.{process.pid}.part/teacher")
    left.mkdir(parents=True)
    project(teacher=READY)
    teach()
    assert [path.name for path in Path("models").iterdir()] == ["teacher"]


def test_a_variants_own_layers(project, monkeypatch):
    monkeypatch.setattr(distill, "distil", lambda *_, **__: [])  # untrained
    kd = {"alpha": 0.5, "temperature": 2.0, "parent": "teacher"}
    layers = {"init": "teacher-layers", "layers": [0, 1, 2], "freeze_embeddings": True}
    project(
        teacher=READY,
        distill={"student": layers},
        variants={"distill": {"distilled": {**kd, "layers": [0, 2]}, "fine-tuned": kd}},
    )
    teach()
    for name, count in (("distilled", 2), ("fine-tuned", 3)):
        compress.main("distill", name)
        assert json.loads(Path(f"models/{name}/config.json").read_text())["n_layers"] == count
        used = recipe(name)["parameters"]
        assert len(used.get("layers", used["student"]["layers"])) == count


ENCODER = {
    "source": "hub", "model": "bert", "sha256": None, "max_length": 16, "epochs": 2, "batch_size": 4,
    "learning_rate": 1e-3, "freeze_embeddings": True,
}  # fmt: skip
KD = {"alpha": 0.5, "temperature": 2.0}


def only(**variants):
    """These lines and the teacher's row."""
    rest = {stage: {} for stage in TECHNIQUES} | {"rows": {"teacher": "table"}}
    return {"variants": rest | variants, "load_test": {"scenarios": [ONE]}}


def weights(name):
    return load_file(f"models/{name}/model.safetensors")


def test_a_student_starts_from_the_general_step(project, monkeypatch):
    """Its encoder and its tokenizer are that model's; its head answers rightly before any training."""
    project(
        teacher=READY,
        general=ENCODER,
        variants={
            "general": {"general": {"layers": [0, 2]}},
            "distill": {"distilled": {**KD, "parent": "general"}},
        },
    )
    general.main("general")
    made = recipe("general")
    assert (made["parent"], made["technique"], made["parameters"]["layers"]) == ("bert", "general", [0, 2])
    assert [epoch["epoch"] for epoch in made["history"]] == [1, 2]
    assert made["history"][1]["eval_loss"] < made["history"][0]["eval_loss"]
    frozen = load_file("bert/model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert np.array_equal(weights("general")["embeddings.word_embeddings.weight"], frozen)
    teach()
    monkeypatch.setattr(distill, "distil", lambda *_, **__: [])  # untrained
    compress.main("distill", "distilled")
    ours = weights("distilled")
    for name, weight in weights("general").items():
        assert np.array_equal(ours[f"distilbert.{name}"], weight)
    answers = runtime.load("models/distilled").predict(list(QUERIES))
    assert [answer.label for answer in answers] == list(QUERIES.values())
    assert files("models/distilled")["tokenizer.json"] == files("models/general")["tokenizer.json"]


def test_a_narrow_student_is_taught_by_layers_of_the_teacher(project):
    """The projection is in neither model; the students learn from unlabelled text and are exported."""
    pd.DataFrame({"text": ["rent my car w40", "my balance in w30"]}).to_parquet("data/unlabelled.parquet")
    project(
        teacher=READY,
        general=ENCODER,
        **only(
            general={"general": {"layers": [0, 2], "width": 8, "relations": 0.5}},
            distill={"distilled": {**KD, "parent": "general", "hidden": 1.0, "relations": 0.5}},
            export={"distilled-ort": {"parent": "distilled"}},
        ),
    )
    teach()
    general.main("general")
    compress.main("distill", "distilled")
    for name, prefix in (("general", ""), ("distilled", "distilbert.")):
        assert not [key for key in weights(name) if "projection" in key]
        assert weights(name)[f"{prefix}transformer.layer.1.ffn.lin1.weight"].shape == (16, 8)
    compress.main("export", "distilled-ort")
    np.testing.assert_allclose(logits_of("models/distilled-ort"), logits_of("models/distilled"), atol=1e-4)
    from stages.techniques.general import texts

    assert set(texts()["text"]) == {*QUERIES, "rent my car w40"}


def test_layers_are_taught_only_if_asked(project, monkeypatch):
    """Without hidden and relations no teacher is loaded; with them the student is another."""
    plain = {**KD, "parent": "teacher", "layers": [0]}
    project(teacher=READY, **only(distill={"plain": plain, "taught": {**plain, "hidden": 1.0}}))
    teach()
    compress.main("distill", "taught")
    monkeypatch.setattr(distill, "layerwise", lambda *_: pytest.fail("a teacher is loaded"))
    compress.main("distill", "plain")
    assert not np.array_equal(weights("plain")["classifier.weight"], weights("taught")["classifier.weight"])
    assert recipe("plain")["history"][0]["loss"] < recipe("taught")["history"][0]["loss"]


def test_a_general_student_that_reads_otherwise_than_the_teacher(project):
    project(
        teacher=READY,
        general=ENCODER,
        variants={
            "general": {"general": {"layers": [0]}, "odd": {"layers": [0], "width": 6}},
            "distill": {"distilled": {**KD, "parent": "general", "hidden": 1.0}},
        },
    )
    teach()
    general.main("general")
    tokenizer = Path("models/general/tokenizer.json")
    tokenizer.write_text(tokenizer.read_text().replace("w40", "w400"))
    with pytest.raises(SystemExit, match="models/general and models/teacher read with different tokenizers"):
        compress.main("distill", "distilled")
    with pytest.raises(SystemExit, match="width is 6: should be a multiple of 4"):
        general.main("odd")


def test_students_of_a_students_recipes(project):
    """What is in a recipe is what was used: none of what only other methods or stages read."""
    kd = {"alpha": 0.5, "temperature": 2.0, "parent": "distilled"}
    project(
        teacher=READY,
        distill={"student": HUB_STUDENT},
        variants={
            "prune": {
                "magnitude": {**kd, "method": "magnitude-one-shot", "sparsity": 0.5, "seed": 7},
                "soft-movement": {**kd, "method": "movement-soft", "penalty": 10.0},
            },
            "structured": {"structured": {**kd, "heads": 0.25, "feed_forward": 0.75}},
            "factorize": {"factorized": {**kd, "rank": 8}},
            "qat": {"qat": kd},
        },
    )
    teach()
    stages = {
        "distilled": "distill",
        "magnitude": "prune",
        "soft-movement": "prune",
        "structured": "structured",
        "factorized": "factorize",
        "qat": "qat",
    }
    for name, stage in stages.items():
        compress.main(stage, name)
        assert recipe(name)["parent"] == ("teacher" if name == "distilled" else "distilled")
        assert recipe(name)["technique"] == stage
    used = {name: recipe(name)["parameters"] for name in stages}
    assert (used["magnitude"]["sparsity"], used["magnitude"]["seed"]) == (0.5, 7)
    assert recipe("magnitude")["sparsity"]["overall"] == 0.5
    assert (used["soft-movement"]["penalty"], used["soft-movement"]["seed"]) == (10.0, 0)
    assert not {"sparsity", "rounds"} & set(used["soft-movement"])
    assert not {"penalty", "threshold", "score_learning_rate"} & set(used["magnitude"])
    assert recipe("structured")["layer_shapes"] == [[3, 8]]
    assert logits_of("models/structured").shape == (3, 3)
    assert 0.5 < recipe("factorized")["variance"] < 1
    assert logits_of("models/factorized").shape == (3, 3)
    assert (used["qat"]["per_channel"], used["qat"]["reduce_range"]) == (True, True)
    assert not {"ranges", "range_queries"} & set(used["qat"])


@pytest.mark.slow
def test_every_technique_that_trains_runs_on_two_processes(project):
    """One model and one history each, whose zeros and shapes are those asked for; no checkpoint is left."""
    kd = {"alpha": 0.5, "temperature": 2.0, "parent": "distilled"}
    variants = {
        "distill": {"distilled": {**kd, "parent": "teacher", "unlabelled": True}},
        "prune": {
            "magnitude": {**kd, "method": "magnitude-one-shot", "sparsity": 0.5},
            "movement": {**kd, "method": "movement-hard", "sparsity": 0.5},
            "soft-movement": {**kd, "method": "movement-soft", "penalty": 10.0},
        },
        "structured": {"structured": {**kd, "heads": 0.25, "feed_forward": 0.75}},
        "factorize": {"factorized": {**kd, "rank": 8}},
        "qat": {"qat": kd},
    }
    rest = {stage: {} for stage in TECHNIQUES} | {"rows": {"teacher": "table"}}
    table = pd.DataFrame(QUERIES.items(), columns=["text", "intent"])
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS, UNLABELLED)
    project(
        data={"unlabelled": {"changed": 1}},
        teacher=READY,
        distill={"student": HUB_STUDENT, "epochs": 2},
        variants=rest | variants,
        load_test={"scenarios": [ONE]},
    )
    teach()
    for stage, lines in variants.items():
        for name in lines:
            command = [*TORCHRUN, "-m", "stages.compress", stage, name]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert recipe(name)["technique"] == stage and recipe(name)["history"]
            assert logits_of(f"models/{name}").shape == (3, 3)
    for name in ("magnitude", "movement"):
        assert recipe(name)["sparsity"]["overall"] == pytest.approx(0.5, abs=0.01)
    assert recipe("structured")["layer_shapes"] == [[3, 8]]
    assert not list(Path(".checkpoints").iterdir())
    assert {path.name for path in Path("models").iterdir()} == {
        "teacher", *(name for lines in variants.values() for name in lines)
    }  # fmt: skip


@pytest.mark.slow
def test_layers_are_taught_on_two_processes(project):
    """With a projection, which is used outside the model's own forward pass."""
    project(
        teacher=READY,
        general=ENCODER,
        **only(
            general={"narrow": {"layers": [0, 2], "width": 8, "relations": 0.5, "freeze_embeddings": False}},
            distill={"distilled": {**KD, "parent": "narrow", "hidden": 1.0, "relations": 0.5}},
        ),
    )
    teach()
    for command in (["stages.general", "narrow"], ["stages.compress", "distill", "distilled"]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*TORCHRUN, "-m", *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert recipe("narrow")["history"] and recipe("distilled")["history"]
    assert logits_of("models/distilled").shape == (3, 3)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def measured(project, **sections):
    """The stages teacher and evaluate of a teacher that is ready, the only row."""
    defaults = {"variants": {"rows": {"teacher": "table"}}, "load_test": {"scenarios": [ONE]}}
    project(teacher=READY, **(defaults | sections))
    teach()
    evaluate.main("teacher")
    return json.loads(Path("evaluations/teacher/accuracy.json").read_text())


def test_a_calibrated_model_is_the_model_and_its_calibration(project):
    measured(project)
    given = files("calibrated/teacher")
    assert set(json.loads(given.pop("calibration.json"))) == {"temperature", "threshold", "spread"}
    assert given == files("models/teacher")
    for split in ("validation", "test"):
        logits = np.load(f"evaluations/teacher/{split}.npy")
        np.testing.assert_allclose(logits, logits_of("models/teacher"), atol=1e-5)


def test_how_sure_a_threshold_is(project):
    """Of 30 queries in scope and 30 out of it; served as it was evaluated."""
    texts = {f"{text} w{i}": intent for text, intent in QUERIES.items() for i in range(30)}
    table = pd.DataFrame(list(texts.items())[30:], columns=["text", "intent"])
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS)
    result = measured(project, calibrate={"scores": ["energy-0.25", "margin"], "out_of_scope_share": 0.2})
    fitted = json.loads(Path("calibrated/teacher/calibration.json").read_text())
    assert fitted["spread"]["low"] <= fitted["threshold"]["value"] <= fitted["spread"]["high"]
    assert 0.5 <= fitted["spread"]["same_score"] <= 1
    test = result["test"]
    assert test["threshold_accuracy_low"] <= test["threshold_accuracy_high"] <= 1
    served = [p.label for p in runtime.load("calibrated/teacher").predict(table["text"].tolist())]
    assert test["accuracy_calibrated"] == pytest.approx((table["intent"] == served).mean())


def test_evaluation_is_kept(project):
    result = measured(project)
    assert list(result) == ["sizes", "out_of_scope_share", "validation", "test"]
    assert result["out_of_scope_share"] == pytest.approx(1 / 3)
    right = logits_of("models/teacher").argmax(-1) == [0, 2, 1]
    spread = {result["test"].pop(f"threshold_accuracy_{end}") for end in ("low", "high")}
    assert spread == {None}  # three queries are too few for a threshold
    assert result["test"] == pytest.approx(result["validation"])
    assert result["test"]["accuracy"] == pytest.approx(right.mean())
    assert result["test"]["oos_recall"] == float(right[2])
    served = [p.label for p in runtime.load("calibrated/teacher").predict(list(QUERIES))]
    right = np.array(served) == list(QUERIES.values())
    assert result["test"]["accuracy_calibrated"] == pytest.approx(right.mean())
    assert result["test"]["oos_recall_calibrated"] == float(right[2])


@pytest.mark.parametrize("name", ["early", "early-ort"])
def test_evaluation_says_who_leaves_where(project, name):
    project(
        teacher=READY,
        distill={"student": HUB_STUDENT, "epochs": 1},
        exits={"epochs": 1, "max_error": 1.0},
        variants={stage: {} for stage in TECHNIQUES}
        | {
            "distill": {"distilled": ALONE},
            "exits": {"early": {"alpha": 0.5, "temperature": 2.0, "parent": "distilled", "layers": [0]}},
            "export": {"early-ort": {"parent": "early"}},
            "rows": {"teacher": "table", name: "table"},
        },
        load_test={"scenarios": [ONE]},
    )
    teach()
    compress.main("distill", "distilled")
    compress.main("exits", "early")
    compress.main("export", "early-ort")
    evaluate.main(name)
    measures = json.loads(Path(f"evaluations/{name}/accuracy.json").read_text())
    logits, exits = runtime.load(f"models/{name}").answers(list(QUERIES))
    for split in ("validation", "test"):
        assert measures[split]["exits"] == [{"layer": 0, "share": pytest.approx((exits == 0).mean())}]
        kept = np.load(f"evaluations/{name}/{split}.npy")
        np.testing.assert_allclose(kept, logits, atol=1e-5)
    assert recipe("early")["exits"]["error"] <= 1.0
    assert [at["layer"] for at in recipe("early")["exits"]["at"]] == [0]


def test_what_scales_by_the_batch_is_evaluated_alone(project, monkeypatch):
    sizes = []
    predict = runtime.Classifier.answers
    monkeypatch.setattr(
        runtime.Classifier, "answers", lambda self, texts: sizes.append(len(texts)) or predict(self, texts)
    )
    measured(project)
    assert set(sizes) == {3}
    sizes.clear()
    values = recipe("teacher")
    Path("models/teacher/recipe.json").write_text(json.dumps({**values, "scales_by_batch": True}))
    evaluate.main("teacher")
    assert set(sizes) == {1}


def test_an_onnx_model_is_evaluated_without_torch(project, models):
    variants = {
        "export": {"student-ort": {"parent": "teacher"}},
        "rows": {"teacher": "table", "student-ort": "sweep"},
    }
    project(variants={stage: {} for stage in TECHNIQUES} | variants, load_test={"scenarios": [ONE]})
    code = "import sys; from stages import evaluate; evaluate.main('student-ort'); "
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
    assert Path("evaluations/student-ort/accuracy.json").exists()


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
    "queries": 2,
    "reference_every": 2,
    "runs_per_round": 1,
    "batch_sizes": [1, 2],
    "batches_every": 1,
    "starts": 1,
}
SHAPE = {
    "vocab_size": 60, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3,
    "intermediate_size": 24,
}  # fmt: skip


SCENARIOS = [{**ONE, "name": "fixed", "length": 16}, {**ONE, "name": "cached", "cached": True}]
LOAD = {
    "scenarios": SCENARIOS, "workers": 1, "rounds": 2, "seconds": 0.1, "loads": [0.5], "requests": 50,
    "clients": 2,
}  # fmt: skip


def test_the_calibrated_model_is_timed_loaded_and_reported(project, capsys):
    """The teacher alone, nothing distilled, nothing pruned; from what measuring leaves."""
    evaluation = measured(project, benchmark={**SHORT, "reference": SHAPE}, load_test=LOAD)
    shutil.rmtree("models")
    benchmark.main()
    times = pd.read_csv("benchmark/times.csv")
    loads = ["query", "tokenization", "session", "batch of 1", "batch of 2"]
    assert times.groupby(["model", "load"]).size().to_dict() == {
        **{(name, load): 2 for name in ("teacher", "bert-base-shape") for load in loads},
        ("teacher", "test query"): 4,
        ("bert-base-shape", "test query"): 2,
    }
    summary = pd.read_csv("benchmark/latency.csv", index_col="model")
    assert set(summary.index) == {"teacher", "bert-base-shape"}
    assert summary["size_mb"]["teacher"] == pytest.approx(evaluation["sizes"]["size_mb"], abs=1e-4)
    assert summary["size_mb"]["bert-base-shape"] < summary["size_mb"]["teacher"]
    assert summary["speedup"]["teacher"] == summary["speedup_over_bert_base"]["bert-base-shape"] == 1
    few = [key for key in summary if "_p9" in key or key.endswith(("_low", "_high"))]  # two runs, two rounds
    assert summary[few].isna().all(axis=None) and (summary.drop(columns=few) > 0).all(axis=None)
    digest = identity.of_model(Path("calibrated/teacher"))
    assert json.loads(Path("benchmark/measured.json").read_text()) == {"teacher": digest}
    assert {path.name for path in Path("calibrated").iterdir()} == {"teacher"}

    load_test.main()
    select.main()
    counts = {"weight": 1.0, "read": 9, "train": 7, "validation": 1, "highest_cosine": 0.8}
    outliers.write([{"path": "near.txt", **counts, "dropped": {"in train": ["my balance"]}}])
    report.main()
    folder = Path("metrics/sample")
    assert "| near.txt | 1 | 9 | 7 | 1 | 1 | 0.80 |" in (folder / "README.md").read_text()
    definition = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]
    outputs = {next(iter(out)).split("/")[-1] for out in definition["outs"] + definition["metrics"]}
    assert {path.name for path in folder.iterdir()} == outputs
    calibrated = files("calibrated/teacher")
    assert {**files("models/best"), "recipe.json": calibrated["recipe.json"]} == calibrated
    assert recipe("best")["lineage"] == [{"stage": "teacher", "name": "teacher"}]
    assert "* teacher is models/best: " in capsys.readouterr().out
    assert set(pd.read_csv(folder / "tables/domains.csv")["domain"]) == {"banking", "oos"}
    plain, fitted = pd.read_csv(folder / "tables/accuracy.csv")["accuracy"]
    assert [plain, fitted] == pytest.approx(
        [evaluation["test"]["accuracy"], evaluation["test"]["accuracy_calibrated"]], abs=1e-4
    )
    wrong = pd.read_csv(folder / "tables/confusions.csv")["queries"].sum()
    assert wrong == round(3 * (1 - fitted))
    strict = strictly_read()
    assert "null" in (folder / "tables/load_test.json").read_text()
    (row,) = pd.read_csv(folder / "tables/results.csv").to_dict("records")
    assert (row["model_sha256"], row["data_sha256"]) == (digest, identity.of_data())
    links = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text())
    assert set(links) == {str(path.relative_to(folder)) for path in folder.glob("*/*")}
    headline = strict[folder / "summary.json"]
    assert headline["teacher"]["accuracy_calibrated"] == pytest.approx(fitted, abs=1e-4)
    loaded = json.loads((folder / "tables/load_test.json").read_text())
    assert "cached" not in loaded and loaded["machine"]["left_out"] == ["cached"]  # three queries
    assert "**Left out: cached.** The 3 test queries give" in (folder / "README.md").read_text()
    assert loaded["fixed"]["requests_per_second"] > 0 and loaded["fixed"]["gain"] is None
    assert loaded["http"] == {} and loaded["machine"]["http_cores"] == 0  # a padded one alone
    service = loaded["service"]
    assert [service["workers"][key] for key in ("right", "wrong", "lost", "killed")] == [50, 0, 0, 1]
    assert service["processes"]["wrong"] == 0
    assert service["processes"]["right"] + service["processes"]["lost"] == 50
    assert pd.read_csv(folder / "tables/load_test.csv")["scenario"].tolist() == ["fixed"]


def strictly_read():
    """Every JSON file of this directory, by path; of every CSV and Markdown file, no number is nan or inf."""
    for path in [*Path().rglob("*.csv"), *Path().rglob("*.md")]:
        assert not re.search(r"(?<![\w-])[+-]?(nan|inf(inity)?)(?![\w-])", path.read_text(), re.IGNORECASE), (
            path
        )
    return {
        path: json.loads(
            path.read_text(), parse_constant=lambda name, path=path: pytest.fail(f"{path}: {name}")
        )
        for path in Path().rglob("*.json")
    }


@pytest.mark.parametrize("out_of_scope", [None, pytest.param("oos", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("error:.*(divide|invalid value|empty slice|ill-defined)")
def test_no_file_holds_nan(out_of_scope, project, capsys):
    """Without an out-of-scope label, or without such queries; of one round, and of few requests."""
    table = pd.DataFrame({"text": list(QUERIES)[:2], "intent": ["transfer", "balance"]})
    labels = tables.Labels(LABELS.names, out_of_scope)
    tables.write("data", dict.fromkeys(tables.SPLITS, table), labels)
    short = {**LOAD, "scenarios": [ONE], "seconds": 0.01, "rounds": 1, "requests": 3}
    evaluation = measured(project, benchmark={**SHORT, "starts": 0, "reference": SHAPE}, load_test=short)
    assert evaluation["test"]["oos_recall"] is None and evaluation["test"]["calibration_error"] is None
    for stage in (benchmark, load_test, select, report):
        stage.main()
    folder = Path("metrics/sample")
    assert {folder / "summary.json", folder / "tables/load_test.json"} <= set(strictly_read())
    assert strictly_read()[Path("load_test/service.json")]["workers"]["p99_ms"] is None
    written = (folder / "README.md").read_text()
    assert "No model has an out-of-scope threshold" in written and "Outliers" not in written
    assert "without an out-of-scope threshold" in capsys.readouterr().out


def test_only_cached_scenarios_of_few_queries(project):
    measured(project, load_test={**LOAD, "scenarios": SCENARIOS[1:]})
    with pytest.raises(SystemExit, match="3 test queries give a cache of 256 a hit rate of 100%"):
        load_test.main()
    assert not Path("load_test").exists()


def test_a_model_that_has_diverged(project):
    project(teacher=READY, variants={"rows": {"teacher": "table"}}, load_test={"scenarios": [ONE]})
    teach()
    weights = load_file("models/teacher/model.safetensors")
    save_file(
        {**weights, "classifier.bias": weights["classifier.bias"] * np.nan},
        "models/teacher/model.safetensors",
    )
    with pytest.raises(
        SystemExit, match="models/teacher answers queries of validation with logits that are not"
    ):
        evaluate.main("teacher")
    assert not Path("evaluations").exists() and not Path("calibrated").exists()


def test_the_report_of_other_data_or_another_model(project):
    """The stages by hand, one of them forgotten."""
    measured(project, benchmark={**SHORT, "starts": 0, "reference": SHAPE}, load_test=LOAD)
    benchmark.main()
    select.main()
    table = pd.DataFrame([*QUERIES.items(), ("w31", "oos")], columns=["text", "intent"])
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS)
    with pytest.raises(SystemExit, match="evaluations/teacher is of other data than data/ has"):
        report.main()
    evaluate.main("teacher")
    Path("models/best/calibration.json").write_text('{"temperature": 2.0, "threshold": null}')
    with pytest.raises(SystemExit, match="models/best is not the calibrated model teacher"):
        report.main()
    Path("calibrated/teacher/calibration.json").write_text('{"temperature": 2.0, "threshold": null}')
    with pytest.raises(SystemExit, match=r"evaluations/teacher/measured\.json is of another model"):
        report.main()
    assert not Path("metrics").exists()


def test_more_workers_than_cores(project):
    measured(project, load_test={"scenarios": [ONE], "workers": 1000})
    with pytest.raises(SystemExit, match=r"load_test\.workers is 1000: there are"):
        load_test.main()


def test_an_interrupted_stage_leaves_nothing_half_written(project, monkeypatch):
    project(teacher={**READY, "epochs": 2})
    monkeypatch.setattr(
        "transformers.Trainer.train", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(SystemExit) as stopped:
        teach()
    assert stopped.value.code == 130
    assert list(Path("models").iterdir()) == []
    assert not Path("logits").exists()


def test_an_unreachable_hub_is_one_line(project, capsys):
    project(teacher={**READY, "model": "nobody/nothing"})
    with pytest.raises(SystemExit, match=r"error: cannot load 'nobody/nothing'"):
        teach()


def test_a_student_of_a_student_is_refused(project):
    """The default asks for layers 0, 2 and 5, which a DistilBERT of one layer lacks."""
    from_teacher_layers(tiny_bert(), [0]).save_pretrained("small")
    (project.folder / "small" / "tokenizer.json").write_bytes(Path("bert/tokenizer.json").read_bytes())
    (project.folder / "small" / "tokenizer_config.json").write_bytes(
        Path("bert/tokenizer_config.json").read_bytes()
    )
    project(teacher={**READY, "model": "small", "path": "small"})
    teach()
    with pytest.raises(SystemExit, match="its teacher's layers are 0 to 0"):
        compress.main("distill", "distilled")
