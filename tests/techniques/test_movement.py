from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import check_that_it_resumes, random_rows, small_trainer
from torch import nn

from stages.checkpoints import encoder
from stages.techniques import masks, movement
from stages.techniques.settings import MovementPruning
from stages.techniques.students import from_teacher_layers
from stages.training import loop
from stages.training.distillation import DistillationTrainer, DistillationTrainingArguments


@pytest.mark.parametrize("shape", [(4, 6), (3,), (6,)])
def test_gradient_of_the_scores(shape):
    """dL/dW′ ⊙ W, of an explicit W′, for removed weights as well; its sum over the columns of a group."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 4).double()
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    scored = masks.attach(linear, *shape).double()
    mask = torch.arange(scored.mask.numel()).view(shape) % 3 != 1
    scored.mask.copy_(mask)
    columns = mask if len(shape) == 2 else mask[torch.arange(6) * shape[0] // 6].expand(4, 6)
    explicit = (weight * columns).requires_grad_()
    inputs = torch.randn(5, 6, dtype=torch.float64)

    linear(inputs).tanh().square().sum().backward()
    F.linear(inputs, explicit, bias).tanh().square().sum().backward()

    expected = (explicit.grad * weight).numpy()
    if len(shape) == 1:
        expected = expected.reshape(4, shape[0], -1).sum(axis=(0, 2))
    assert np.abs(expected[~mask.numpy()]).min() > 0
    np.testing.assert_allclose(scored.scores.grad, expected, rtol=1e-12)
    trained = encoder.trained_weight(linear)
    np.testing.assert_allclose(trained.grad, explicit.grad * columns, rtol=1e-12)
    assert torch.equal(trained, weight)


def at(progress, steps=1000):
    """A step's state, as a Trainer's callbacks are given it."""
    return SimpleNamespace(global_step=round(progress * steps), max_steps=steps, log_history=[{}])


def score(masks):
    torch.manual_seed(1)
    with torch.no_grad():
        for scored in masks:
            scored.scores.normal_()


def test_hard_masks_keep_the_top_scores(bert):
    pruning = movement.HardMovement(bert, sparsity=0.8, begin=0.2, end=0.6)
    score(pruning.masks)
    for progress, target in [(0.2, 0), (0.4, 0.7), (0.6, 0.8), (1, 0.8)]:
        pruning.on_step_begin(None, at(progress), None)
        for scored in pruning.masks:
            kept = scored.mask.numel() - round(target * scored.mask.numel())
            order = scored.scores.detach().numpy().ravel().argsort()[::-1]
            assert set(scored.mask.numpy().ravel().nonzero()[0]) == set(order[:kept])
    state = at(1)
    pruning.on_log(None, state, None)
    assert state.log_history[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)


def test_hard_masks_are_drawn_every_few_steps(bert):
    """From the scores as they are then; those removed before can come back."""
    pruning = movement.HardMovement(bert, sparsity=0.5, begin=0, end=0.1, every=10)
    score(pruning.masks)
    pruning.on_step_begin(None, at(0.1), None)
    masks = [scored.mask.clone() for scored in pruning.masks]
    with torch.no_grad():
        for scored in pruning.masks:
            scored.scores.neg_()
    pruning.on_step_begin(None, at(0.101), None)
    assert all(torch.equal(s.mask, mask) for s, mask in zip(pruning.masks, masks, strict=True))
    pruning.on_step_begin(None, at(0.11), None)
    assert all(torch.equal(s.mask, ~mask) for s, mask in zip(pruning.masks, masks, strict=True))


def optimizer(model, learning_rate, weight_decay, score_learning_rate):
    return masks.optimizer(
        model,
        MovementPruning.model_construct(
            learning_rate=learning_rate, weight_decay=weight_decay, score_learning_rate=score_learning_rate
        ),
    )


def hard_trainer(bert, *callbacks, epochs=3, every=4):
    """5 steps an epoch."""
    torch.manual_seed(7)
    student = from_teacher_layers(bert, [0, 2])
    pruning = movement.HardMovement(student, 0.75, 0.1, 0.6, every)
    scores = optimizer(student, 1e-3, 0.01, 0.05)
    return small_trainer(student, pruning, *callbacks, epochs=epochs, optimizer=scores)


def test_hard_movement_while_training(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = from_teacher_layers(bert, [0, 2])
    run = hard_trainer(bert)
    history = loop.fit(run, "")
    model = run.model
    assert history[-1]["sparsity"] == 0.75
    assert history[0]["sparsity"] < history[1]["sparsity"] <= 0.75
    assert all(m.parametrizations.weight[0].scores.all() for m in encoder.linears(model).values())
    masked = loop.logits(model, random_rows())
    masks.detach(model)
    assert np.array_equal(loop.logits(model, random_rows()), masked)
    assert model.state_dict().keys() == student.state_dict().keys()
    for module in encoder.linears(model).values():
        assert type(module) is nn.Linear
        assert isinstance(module.weight, nn.Parameter)
        assert (module.weight == 0).float().mean() == 0.75
        assert not module.weight[module.weight == 0].signbit().any()
    before = student.state_dict()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if "bias" in name)


def test_a_run_of_few_steps_reaches_the_sparsity(bert, tmp_path, monkeypatch):
    """5 steps, fewer than masks are drawn anew after; `end` is at the third."""
    monkeypatch.chdir(tmp_path)
    run = hard_trainer(bert, epochs=1, every=10)
    loop.fit(run, "")
    masks.detach(run.model)
    assert {(m.weight == 0).float().mean().item() for m in encoder.linears(run.model).values()} == {0.75}


def test_interrupted_run_resumes_to_the_same_bytes(bert, tmp_path, monkeypatch):
    """From a checkpoint between two steps at which masks are drawn."""
    monkeypatch.chdir(tmp_path)

    check_that_it_resumes(lambda *callbacks: hard_trainer(bert, *callbacks), tmp_path)


@pytest.mark.parametrize("grouped", [False, True])
def test_optimizer_groups(bert, grouped):
    encoder.freeze_embeddings(bert, True)
    for block in encoder.blocks(bert):
        masks.attach(block.out, *((block.heads,) if grouped else block.out.weight.shape))
    matrices, vectors, scores = optimizer(bert, 0.1, 0.2, 0.3).param_groups
    every = [id(p) for group in (matrices, vectors, scores) for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in bert.parameters() if p.requires_grad)
    learned = [block.out.parametrizations.weight[0].scores for block in encoder.blocks(bert)]
    assert {id(p) for p in scores["params"]} == {id(p) for p in learned}
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in vectors["params"]} == {1}
    assert [group["lr"] for group in (matrices, vectors, scores)] == [0.1, 0.1, 0.3]
    assert [group["weight_decay"] for group in (matrices, vectors, scores)] == [0.2, 0, 0]


def sigmoid(scores):
    return 1 / (1 + np.exp(-scores.detach().numpy().astype(np.float64)))


@pytest.mark.parametrize(
    ("progress", "share"), [(0, 0), (0.2, 0), (0.3, 37 / 64), (0.4, 7 / 8), (0.6, 1), (1, 1)]
)
def test_soft_masks_and_penalty(bert, progress, share):
    """τ and λ are `share` of what they end with, by the cubic from 0.2 to 0.6."""
    pruning = movement.SoftMovement(bert, weight=30.0, threshold=0.4, begin=0.2, end=0.6)
    score(pruning.masks)
    pruning.on_step_begin(None, at(progress), None)
    for scored in pruning.masks:
        assert np.array_equal(scored.mask, sigmoid(scored.scores) > 0.4 * share)
    penalty = pruning.penalty()
    penalty.backward()
    means = [sigmoid(scored.scores).mean() for scored in pruning.masks]
    assert penalty.item() == pytest.approx(30 * share * np.mean(means), rel=1e-5)
    for scored in pruning.masks:
        p = sigmoid(scored.scores)
        expected = 30 * share * p * (1 - p) / p.size / len(pruning.masks)
        np.testing.assert_allclose(scored.scores.grad, expected, rtol=1e-4, atol=1e-12)


def test_soft_masks_keep_the_best_half_percent(bert):
    """Where all scores are low: of 256 and of 512 entries, to the nearest."""
    pruning = movement.SoftMovement(bert, weight=1.0, threshold=0.4, begin=0, end=0.5)
    score(pruning.masks)
    with torch.no_grad():
        for scored in pruning.masks:
            scored.scores.sub_(100)
    pruning.on_step_begin(None, at(1), None)
    for scored in pruning.masks:
        assert scored.mask.sum() == {256: 1, 512: 3}[scored.mask.numel()]
        assert scored.scores[scored.mask].min() > scored.scores[~scored.mask].max()


def soft_trainer(bert, folder, size, accumulated, learning_rate):
    """24 queries, a step an epoch: τ and λ are 0 in the first, at their ends in the second."""
    targets = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    student = from_teacher_layers(bert, [0])
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pruning = movement.SoftMovement(student, weight=8.0, threshold=0.1, begin=0, end=0.5)
    return DistillationTrainer(
        student,
        DistillationTrainingArguments(
            output_dir=str(folder),
            remove_unused_columns=False,
            label_names=["labels"],
            num_train_epochs=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            learning_rate=learning_rate,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_strategy="epoch",
            save_strategy="no",
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
        train_dataset=[
            {**row, "teacher_logits": logits} for row, logits in zip(random_rows(24), targets, strict=True)
        ],
        data_collator=loop.PadToLongest(0),
        callbacks=[pruning],
        penalty=pruning.penalty,
    )


@pytest.mark.parametrize(("size", "accumulated"), [(24, 1), (10, 3), (24, 2)])
def test_penalty_reaches_the_loss(bert, size, accumulated, tmp_path):
    """λ · σ(0) more than in the first epoch.

    In one batch, in three (the last one short), or in the one of two that an epoch has left.
    """
    run = soft_trainer(bert, tmp_path, size, accumulated, learning_rate=0.0)
    run.train()
    first, second = (entry["loss"] for entry in run.state.log_history if "loss" in entry)
    assert second - first == pytest.approx(8 * 0.5, rel=1e-4)


def test_penalty_is_accumulated_to_the_same_scores(bert, tmp_path):
    scores = []
    for size, accumulated in ((24, 1), (10, 3)):
        run = soft_trainer(bert, tmp_path, size, accumulated, learning_rate=0.05)
        run.train()
        scores.append([p.detach() for name, p in run.model.named_parameters() if name.endswith(".scores")])
    for one, three in zip(*scores, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)
