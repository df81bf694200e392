import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Trainer, TrainingArguments

from stages.compression import training
from stages.compression.magnitude import (
    GradualMagnitudePruning,
    achieved_sparsity,
    cubic_sparsity,
    encoder_linears,
    magnitude_mask,
)
from stages.compression.student import from_teacher_layers


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, 0), (0.1, 0), (0.3, 0.8 * (1 - (2 / 3) ** 3)), (0.4, 0.7), (0.7, 0.8), (1, 0.8)],
)
def test_cubic_schedule(progress, expected):
    assert cubic_sparsity(progress, 0.8, 0.1, 0.7) == pytest.approx(expected)


def test_cubic_schedule_never_falls():
    values = [cubic_sparsity(t / 200, 0.9, 0.2, 0.8) for t in range(201)]
    assert values == sorted(values)


@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=60),
    st.floats(0, 0.99),
)
def test_mask_keeps_the_largest(values, sparsity):
    weight = torch.tensor(values)
    mask = magnitude_mask(weight, sparsity)
    pruned = round(sparsity * len(values))
    assert (~mask).sum() == pruned
    # An independent way to the same: what is pruned is the head of the sorted magnitudes.
    assert sorted(np.abs(values))[:pruned] == sorted(weight[~mask].abs().tolist())


def test_only_the_encoder_is_pruned(bert):
    student = from_teacher_layers(bert, [0, 1])
    names = encoder_linears(student)
    assert len(names) == 2 * 6
    assert all(name.startswith("transformer.layer.") for name in names)
    assert len(encoder_linears(bert)) == 3 * 6  # the pooler is left out


def test_achieved_sparsity(bert):
    student = from_teacher_layers(bert, [0])
    linears = encoder_linears(student)
    with torch.no_grad():
        linears["transformer.layer.0.ffn.lin1"].weight[:8] = 0  # 8 of 32 rows
    sparsity = achieved_sparsity(student)
    assert sparsity["transformer.layer.0.ffn.lin1"] == 0.25
    assert sparsity["transformer.layer.0.attention.q_lin"] == 0
    total = sum(m.weight.numel() for m in linears.values())
    assert sparsity["overall"] == pytest.approx(8 * 16 / total)


def test_pruning_while_training(bert, tmp_path):
    """The target is met in every matrix, biases and the rest are trained, zeros stay zero."""
    student = from_teacher_layers(bert, [0, 1])
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    rng = np.random.default_rng(0)
    rows = [{"input_ids": torch.tensor(rng.integers(5, 60, 6)), "labels": i % 3} for i in range(32)]
    seen = []

    class Watch(GradualMagnitudePruning):
        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            seen.append(achieved_sparsity(kwargs["model"])["overall"])

    Trainer(
        student,
        TrainingArguments(
            str(tmp_path),
            num_train_epochs=10,
            per_device_train_batch_size=8,
            save_strategy="no",
            disable_tqdm=True,
            weight_decay=0.0,
            use_cpu=True,
            logging_strategy="epoch",
        ),
        train_dataset=rows,
        data_collator=training.PadToLongest(0),
        callbacks=[Watch(0.75, 0.1, 0.6, every=2)],
    ).train()
    assert len(seen) == 40
    assert seen[3] == 0
    assert seen == sorted(seen)
    assert seen[-1] == seen[24] == 0.75
    assert set(achieved_sparsity(student).values()) == {0.75}
    changed = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert "classifier.weight" in changed
    assert "distilbert.transformer.layer.0.ffn.lin1.bias" in changed


def test_without_sparsity_nothing_is_pruned():
    assert magnitude_mask(nn.Linear(4, 4).weight, 0.0).all()
