import contextlib
import copy

import numpy as np
import pytest
import torch
from conftest import tiny_distilbert

from stages.techniques.settings import LayerLosses
from stages.training import loop
from stages.training.distillation import DistillationTrainer, DistillationTrainingArguments, distillation_loss
from stages.training.layerwise import Layerwise

STUDENT = [[1.0, 2.0, -1.0], [0.5, 0.0, 0.3]]
TEACHER = [[2.0, 1.0, 0.0], [-1.0, 0.2, 3.0]]
LABELS = [1, 2]
# distillation_loss at alpha 0.125 and T 7, computed with 50 decimal digits (Python's decimal).
GOLDEN = 0.9604351771431933


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


def softmax(row, temperature):
    powers = [np.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def by_hand(alpha, temperature):
    """The loss written out in sums, without torch."""
    total = 0.0
    for student, teacher, label in zip(STUDENT, TEACHER, LABELS, strict=True):
        hard = -np.log(softmax(student, 1)[label])
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        soft = sum(pi * (np.log(pi) - np.log(qi)) for pi, qi in zip(p, q, strict=True))
        total += alpha * hard + (1 - alpha) * temperature**2 * soft
    return total / len(LABELS)


@pytest.mark.parametrize("alpha", [0.0, 0.125, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.0])
def test_loss_equals_the_sums(alpha, temperature):
    loss = distillation_loss(double(STUDENT), double(TEACHER), torch.tensor(LABELS), alpha, temperature)
    assert loss.item() == pytest.approx(by_hand(alpha, temperature), rel=1e-12)


def test_rows_without_labels():
    """The labelled mean of CE and the mean of KL over all rows, in numpy; whatever the batches are."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    labels = np.array([1, loop.UNLABELLED, 0, loop.UNLABELLED, loop.UNLABELLED])
    alpha, temperature = 0.3, 4.0

    def log_softmax(rows):
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    hard = -(log_softmax(student)[0, 1] + log_softmax(student)[2, 0]) / 2
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    soft = (np.exp(p) * (p - q)).sum() / 5
    expected = alpha * hard + (1 - alpha) * temperature**2 * soft
    given = [double(student), double(teacher), torch.tensor(labels)]
    assert distillation_loss(*given, alpha, temperature).item() == pytest.approx(expected, rel=1e-6)
    parts = [
        distillation_loss(*(rows[part] for rows in given), alpha, temperature, "sum", labelled=2 / 5)
        for part in (slice(3), slice(3, 5))
    ]
    assert sum(parts).item() / 5 == pytest.approx(expected, rel=1e-6)
    alone = distillation_loss(*(rows[3:] for rows in given), alpha, temperature).item()
    soft = (np.exp(p) * (p - q))[3:].sum() / 2
    assert alone == pytest.approx((1 - alpha) * temperature**2 * soft, rel=1e-6)


def test_golden_values():
    arguments = double(STUDENT), double(TEACHER), torch.tensor(LABELS)
    assert distillation_loss(*arguments, 0.125, 7.0).item() == pytest.approx(GOLDEN, rel=1e-12)
    assert distillation_loss(*arguments, 0.125, 7.0, "sum").item() == pytest.approx(2 * GOLDEN, rel=1e-12)


def test_a_student_like_its_teacher_has_no_soft_loss():
    logits = torch.tensor(TEACHER)
    assert distillation_loss(logits, logits, torch.tensor(LABELS), 0.0, 3.0).item() == pytest.approx(
        0, abs=1e-6
    )


def test_soft_gradient_at_high_temperature_matches_logits():
    """For T large the soft gradient tends to (z − v)/(n·N) of centred logits (Hinton 2015, equation 4)."""
    student = double(STUDENT).requires_grad_()
    distillation_loss(student, double(TEACHER), torch.tensor(LABELS), 0.0, 1e4).backward()
    z, v = np.array(STUDENT), np.array(TEACHER)
    expected = ((z - z.mean(1, keepdims=True)) - (v - v.mean(1, keepdims=True))) / z.size
    np.testing.assert_allclose(student.grad, expected, atol=1e-4)


def examples(count=24):
    rng = np.random.default_rng(0)
    return [
        {
            "input_ids": torch.tensor(rng.integers(5, 60, rng.integers(3, 10))),
            "labels": int(rng.integers(3)),
            "teacher_logits": rng.normal(size=3).astype(np.float32),
        }
        for _ in range(count)
    ]


def trainer(folder, rows, penalty=None, **arguments):
    """Of a student without dropout; `penalty` is a function of its parameters, added to its loss."""
    student = tiny_distilbert(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
    return DistillationTrainer(
        student,
        DistillationTrainingArguments(
            output_dir=str(folder),
            alpha=0.3,
            temperature=2.0,
            remove_unused_columns=False,
            label_names=["labels"],
            seed=0,
            **{
                "num_train_epochs": 2,
                "disable_tqdm": True,
                "learning_rate": 1e-2,
                "optim": "sgd",
                "lr_scheduler_type": "constant",
                "max_grad_norm": 0.0,
                "logging_strategy": "epoch",
                "save_strategy": "no",
                **arguments,
            },
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=loop.PadToLongest(0),
        compute_metrics=loop.metrics,
        penalty=penalty and (lambda: penalty(student)),
    )


def squares(model):
    return sum(p.square().sum() for p in model.parameters())


@pytest.mark.parametrize("penalty", [None, squares])
@pytest.mark.parametrize("unlabelled", [0, 17])
def test_gradient_accumulation_gives_the_same_weights(tmp_path, penalty, unlabelled):
    """24 queries as one batch, or as 3 accumulated ones, the last one short: one gradient."""
    weights = []
    rows = weighted(examples())
    rows = [row | {"labels": loop.UNLABELLED} for row in rows[:unlabelled]] + rows[unlabelled:]
    for size, steps in ((24, 1), (10, 3)):
        run = trainer(
            tmp_path, rows, penalty, per_device_train_batch_size=size, gradient_accumulation_steps=steps
        )
        run.train()
        weights.append([p.detach().clone() for p in run.model.parameters()])
    for one, accumulated in zip(*weights, strict=True):
        torch.testing.assert_close(one, accumulated, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("penalty", "added"), [(None, 0), (lambda model: torch.tensor(2.5), 2.5)])
def test_training_loss_is_the_loss(tmp_path, penalty, added):
    """What the Trainer logs for a frozen model is distillation_loss over the whole set, and the penalty."""
    run = trainer(
        tmp_path, examples(), penalty, per_device_train_batch_size=8, learning_rate=0.0, num_train_epochs=1
    )
    run.train()
    rows = examples()
    logits = torch.from_numpy(loop.logits(run.model, rows))
    teacher = torch.tensor(np.stack([row["teacher_logits"] for row in rows]))
    labels = torch.tensor([row["labels"] for row in rows])
    expected = distillation_loss(logits, teacher, labels, 0.3, 2.0).item()
    assert run.state.log_history[0]["loss"] == pytest.approx(expected + added, rel=1e-4)


def test_the_layers_losses_are_added_once_for_each_query(bert, tmp_path):
    """In a training of one batch or of three, and to the loss of the logits."""
    losses = []
    for layerwise in (None, Layerwise(bert, [0], LayerLosses(hidden=0.5, relations=0.3))):
        for size, steps in ((24, 1), (10, 3)):
            run = trainer(
                tmp_path, examples(), learning_rate=0.0, num_train_epochs=1,
                per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            )  # fmt: skip
            run.layerwise = layerwise
            run.train()
            losses.append(run.state.log_history[0]["loss"])
    batch = loop.PadToLongest(0)([{"input_ids": row["input_ids"]} for row in examples()])
    states = run.model.eval()(**batch, output_hidden_states=True).hidden_states
    added = layerwise.losses(run.model, states, batch, contextlib.nullcontext).sum().item() / 24
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2:] == pytest.approx([losses[0] + added] * 2, rel=1e-4)


def test_evaluation_needs_no_teacher(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "teacher_logits"} for row in examples()]
    run = trainer(tmp_path, rows, squares)
    metrics = run.evaluate()
    logits = torch.from_numpy(loop.logits(run.model, rows))
    labels = torch.tensor([row["labels"] for row in rows])
    assert metrics["eval_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4
    )
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())


WEIGHTS = [1.0, 4.0, 0.5]


def weighted(rows):
    return [{**row, "weight": np.float32(WEIGHTS[i % 3])} for i, row in enumerate(rows)]


def test_weights_by_hand(tmp_path):
    """Σ w·l / Σ w of a frozen model, in numpy, as the Trainer logs it: in one batch, or in three."""
    rows = weighted(examples(10))
    for size, steps in ((10, 1), (4, 3)):
        run = trainer(
            tmp_path, rows, learning_rate=0.0, num_train_epochs=1,
            per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        )  # fmt: skip
        run.train()
        total = 0.0
        for logits, row in zip(loop.logits(run.model, rows), rows, strict=True):
            p, q = softmax(row["teacher_logits"].astype(float), 2.0), softmax(logits.astype(float), 2.0)
            soft = sum(pi * np.log(pi / qi) for pi, qi in zip(p, q, strict=True))
            hard = -np.log(softmax(logits.astype(float), 1)[row["labels"]])
            total += row["weight"] * (0.3 * hard + 0.7 * 4 * soft)
        expected = total / sum(row["weight"] for row in rows)
        assert run.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weight", [None, 1.0, 7.0])
def test_equal_weights_change_nothing(tmp_path, weight):
    """The weights after training are those of the loss's own mean, with torch alone."""
    rows = examples()
    given = rows if weight is None else [{**row, "weight": np.float32(weight)} for row in rows]
    run = trainer(tmp_path, given, per_device_train_batch_size=24, num_train_epochs=1)
    student = copy.deepcopy(run.model)
    run.train()
    batch = loop.PadToLongest(0)(rows)
    labels, teacher = batch.pop("labels"), batch.pop("teacher_logits")
    distillation_loss(student(**batch).logits, teacher, labels, 0.3, 2.0).backward()
    for trained, parameter in zip(run.model.parameters(), student.parameters(), strict=True):
        expected = parameter if parameter.grad is None else parameter - 1e-2 * parameter.grad
        torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-6)


def test_a_weight_counts_as_copies_do(tmp_path):
    """A query of weight 2 is one that stands twice."""
    rows = examples(8)
    once = [{**row, "weight": np.float32(2.0 if i < 3 else 1.0)} for i, row in enumerate(rows)]
    weights = []
    for given in (once, [*rows, *rows[:3]]):
        run = trainer(tmp_path, given, per_device_train_batch_size=16, num_train_epochs=1)
        run.train()
        weights.append([p.detach().clone() for p in run.model.parameters()])
    for one, two in zip(*weights, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
