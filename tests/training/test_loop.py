import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_rows, saved, stop_after, word_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Trainer, TrainerCallback

from stages.commands import study
from stages.core import processes
from stages.core.errors import UserError
from stages.techniques.settings import Training
from stages.techniques.students import from_teacher_layers
from stages.training import loop

HYPER = Training(epochs=3, batch_size=8, learning_rate=1e-3, weight_decay=0.01, warmup=0.1, dropout=0.0)


def trainer(bert, *callbacks, seed=0):
    torch.manual_seed(7)
    return Trainer(
        from_teacher_layers(bert, [0]),
        loop.arguments(HYPER, "student", seed),
        train_dataset=random_rows(),
        eval_dataset=random_rows(12),
        data_collator=loop.PadToLongest(0),
        compute_metrics=loop.metrics,
        callbacks=list(callbacks),
    )


class Steps(TrainerCallback):
    """Notes the steps that are run."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(state.global_step)


def test_batches_are_as_wide_as_their_longest_query():
    batch = loop.PadToLongest(pad_token_id=9)(
        [
            {"input_ids": torch.tensor([1, 2, 3]), "labels": 2, "teacher_logits": np.array([0.5, 1], "f4")},
            {"input_ids": torch.tensor([4]), "labels": 0, "teacher_logits": np.array([2, 3], "f4")},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [2, 0]
    assert batch["teacher_logits"].tolist() == [[0.5, 1], [2, 3]]
    assert batch["teacher_logits"].dtype == torch.float32


def test_encode(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "pay": 1, "me": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = pd.DataFrame({"text": ["pay me", "who"], "label": [3, 4]})
    first, second = loop.encode(table, tmp_path, teacher_logits=np.array([[1.0], [2.0]]))
    assert first["input_ids"].tolist() == [1, 2]
    assert (first["labels"], second["labels"]) == (3, 4)
    assert second["input_ids"].tolist() == [0]
    assert second["teacher_logits"].tolist() == [2.0]
    with pytest.raises(ValueError, match="shorter"):  # logits of another split
        loop.encode(table, tmp_path, teacher_logits=np.array([[1.0]]))


def test_special_tokens_that_were_typed_are_text_as_when_served(tmp_path):
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    table = pd.DataFrame({"text": ["my [SEP] balance [PAD]"], "label": [0]})
    ids = loop.encode(table, tmp_path)[0]["input_ids"].tolist()
    assert ids[-1] == 3 and ids.count(3) == 1 and 0 not in ids


def test_same_seed_same_bytes_other_seed_other_bytes(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []
    for seed in (0, 0, 1):
        run = trainer(bert, seed=seed)
        history = loop.fit(run, "a test")
        results.append((saved(run.model, tmp_path / "w"), history))
    assert results[0] == results[1]
    assert results[0][0] != results[2][0]
    assert not (tmp_path / ".checkpoints" / "student").exists()


def test_history_has_an_entry_an_epoch_and_no_timings(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = loop.fit(trainer(bert), "a test")
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    for entry in history:
        assert {"loss", "eval_loss", "eval_accuracy"} <= set(entry)
        assert not any("second" in key or "runtime" in key for key in entry)


def test_a_training_that_diverges_is_one_line(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diverging = trainer(bert)
    diverging.args.learning_rate = 1e30
    with pytest.raises(UserError, match=r"the training has diverged, .* lower its learning_rate"):
        loop.fit(diverging, "")


def test_interrupted_run_resumes_to_the_same_bytes(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = trainer(bert)
    history = loop.fit(whole, "a test")
    expected = saved(whole.model, tmp_path / "w")

    with pytest.raises(KeyboardInterrupt):
        loop.fit(trainer(bert, stop_after(12)), "a test")  # in the third of three epochs of five steps
    assert list((tmp_path / ".checkpoints" / "student").glob("checkpoint-10"))
    steps = Steps()
    resumed = trainer(bert, steps)
    assert loop.fit(resumed, "a test") == history
    assert steps.seen == [11, 12, 13, 14, 15]
    assert saved(resumed.model, tmp_path / "w") == expected


def test_half_written_checkpoint_is_passed_over(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(trainer(bert, stop_after(7)), "a test")
    (tmp_path / ".checkpoints" / "student" / "checkpoint-7").mkdir()
    resumed = trainer(bert)
    loop.fit(resumed, "a test")
    assert resumed.state.global_step == 15


@pytest.mark.parametrize(("seed", "identity"), [(1, "a test"), (0, "another")])
def test_checkpoints_of_another_run_are_not_resumed(bert, tmp_path, monkeypatch, seed, identity):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(trainer(bert, stop_after(12), seed=0), "a test")
    steps = Steps()
    other = trainer(bert, steps, seed=seed)
    loop.fit(other, identity)
    assert steps.seen == list(range(1, 16))
    fresh = trainer(bert, seed=seed)
    loop.fit(fresh, identity)
    assert saved(other.model, tmp_path / "w") == saved(fresh.model, tmp_path / "w")


def test_logits_do_not_depend_on_the_batch(bert):
    together = loop.logits(bert, random_rows(), batch_size=16)
    alone = loop.logits(bert, random_rows(), batch_size=1)
    assert together.shape == (40, 3)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_search_sees_the_epochs(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(processes.EPOCHS_FILE, "epochs")
    history = loop.fit(trainer(bert), "a test")
    expected = {entry["epoch"]: entry["eval_accuracy"] for entry in history}
    assert study.epochs(Path("epochs"), "student") == expected


def test_one_bar_with_loss_and_accuracy_and_nothing_else(bert, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    history = loop.fit(trainer(bert), "a test")
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip()]
    assert all(line.startswith("student: ") for line in lines)
    assert " 15/15 " in lines[-1]
    last = history[-1]
    assert f"loss={last['loss']:.3f}, validation={100 * last['eval_accuracy']:.1f}%" in lines[-1]


@pytest.mark.parametrize("weights", [None, [1.0, 1.0], [1.0, 5.0, 0.25]])
def test_the_weighted_loss_of_a_step(bert, tmp_path, monkeypatch, weights):
    """Of a teacher's training: in numpy, Σ w·l / Σ w; without weights, the loss that transformers has."""
    monkeypatch.chdir(tmp_path)
    rows = random_rows(12)
    if weights:
        rows = [row | {"weight": np.float32(weights[i % len(weights)])} for i, row in enumerate(rows)]
    batch = loop.PadToLongest(0)(rows)
    logits = loop.logits(bert, rows).astype(float)
    labels = [row["labels"] for row in rows]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(12), labels]
    expected = np.average(losses, weights=[row.get("weight", 1.0) for row in rows])
    training = loop.WeightedTrainer(
        bert, loop.arguments(HYPER, "teacher", 0), train_dataset=rows, eval_dataset=rows
    )
    assert training.compute_loss(bert, dict(batch)).item() == pytest.approx(expected, rel=1e-5)
    if not weights:
        assert bert(**batch).loss.item() == pytest.approx(expected, rel=1e-5)
