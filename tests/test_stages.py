"""Stages on models of the hub's layout, in process: the recipes that need a hub, without one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import tiny_bert, word_tokenizer
from transformers import AutoModelForSequenceClassification, DistilBertConfig, PreTrainedTokenizerFast

from stages import distill, evaluate, teacher
from stages.compression.student import from_teacher_layers
from stages.intents import tables

ROOT = Path(__file__).parents[1]
LABELS = tables.Labels(["transfer", "oos", "balance"], "oos")
QUERIES = {"send money to w20": "transfer", "my balance in w30": "balance", "rent a car": "oos"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with data, params.yaml, and two folders as a hub has them."""
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(QUERIES.items(), columns=["text", "intent"])
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(), unk_token="[UNK]", pad_token="[PAD]"
    )
    student = AutoModelForSequenceClassification.from_config(
        DistilBertConfig(
            vocab_size=60,
            dim=16,
            n_layers=1,
            n_heads=4,
            hidden_dim=32,
            max_position_embeddings=24,
            num_labels=3,
        )
    )
    for name, model in (("bert", tiny_bert()), ("distilbert", student)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)

    def write(**sections):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, changes in sections.items():
            values[section] = {**values[section], **changes} if section != "student" else changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))

    write.folder = tmp_path
    return write


READY = {"source": "hub", "model": "bert", "sha256": None, "epochs": 0}
HUB_STUDENT = {"init": "hub", "model": "distilbert", "freeze_embeddings": False}


def logits_of(folder):
    from stages import runtime

    return runtime.load(folder).logits(list(QUERIES))


def test_a_teacher_that_is_ready(project):
    """No training; its head in the data's order; its logits over the training split are kept."""
    project(teacher=READY)
    teacher.main()
    assert json.loads(Path("models/teacher/config.json").read_text())["id2label"] == {
        "0": "transfer", "1": "oos", "2": "balance",
    }  # fmt: skip
    np.testing.assert_allclose(np.load("logits/train.npy"), logits_of("models/teacher"), atol=1e-5)
    assert json.loads(Path("models/teacher/recipe.json").read_text())["history"] == []


def test_a_teacher_that_is_fine_tuned(project):
    project(teacher={**READY, "epochs": 20, "learning_rate": 1e-2})
    teacher.main()
    history = json.loads(Path("models/teacher/recipe.json").read_text())["history"]
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
    recipe = json.loads(Path("models/distilled/recipe.json").read_text())
    assert (recipe["parent"], recipe["parameters"]["alpha"]) == ("teacher", 0.1)


def test_evaluation_is_kept(project):
    project(teacher=READY)
    teacher.main()
    evaluate.main("teacher")
    result = json.loads(Path("evaluations/teacher.json").read_text())
    right = logits_of("models/teacher").argmax(-1) == [0, 2, 1]
    assert result["test"] == result["validation"]
    assert result["test"]["accuracy"] == pytest.approx(right.mean())
    assert result["test"]["oos_recall"] == float(right[2])


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
