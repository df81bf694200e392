import contextlib
import math

import numpy as np
import pytest
import torch
from conftest import check_that_it_resumes, random_rows, tiny_bert, tiny_distilbert

from stages.core.errors import UserError
from stages.techniques.settings import LayerLosses, Training
from stages.techniques.students import from_teacher_layers
from stages.training import layerwise, loop
from stages.training.layerwise import Layerwise, LayerwiseTrainer, hidden_loss, relation_loss

RNG = np.random.default_rng(5)
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
NARROW, WIDE = RNG.normal(size=(2, 5, 6)), RNG.normal(size=(2, 5, 9))
BOTH = LayerLosses(hidden=0.7, relations=0.4)


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def hidden_by_hand(student, teacher, length):
    """Of one query, in numpy: the mean square over its first `length` tokens and the width."""
    return np.mean((student[:length] - teacher[:length]) ** 2)


def relations_by_hand(student, teacher, length, heads):
    """Of one query, token by token and head by head."""
    total = 0.0
    for head in range(heads):
        parts = []
        for vectors in (student, teacher):
            size = vectors.shape[1] // heads
            parts.append(vectors[:length, head * size : (head + 1) * size])
        for token in range(length):
            q, p = (softmax(part @ part[token] / math.sqrt(part.shape[1])) for part in parts)
            total += np.sum(p * np.log(p / q)) / (heads * length)
    return total


def test_hidden_loss_is_the_mean_square_of_each_querys_tokens():
    other = RNG.normal(size=NARROW.shape)
    loss = hidden_loss(*map(torch.tensor, (NARROW, other, MASK)))
    expected = [hidden_by_hand(NARROW[i], other[i], n) for i, n in enumerate((4, 2))]
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


@pytest.mark.parametrize("heads", [1, 3])
def test_relation_loss_equals_the_sums(heads):
    loss = relation_loss(*map(torch.tensor, (NARROW, WIDE, MASK)), heads)
    expected = [relations_by_hand(NARROW[i], WIDE[i], n, heads) for i, n in enumerate((4, 2))]
    assert min(expected) > 0.05
    np.testing.assert_allclose(loss, expected, rtol=1e-9)


def test_a_student_like_its_teacher_has_no_loss():
    vectors, mask = torch.tensor(NARROW), torch.tensor(MASK)
    for loss in (hidden_loss(vectors, vectors, mask), relation_loss(vectors, vectors, mask, 2)):
        np.testing.assert_allclose(loss, 0, atol=1e-12)


def test_padding_has_no_gradient():
    student = torch.tensor(NARROW, requires_grad=True)
    mask = torch.tensor(MASK)
    loss = relation_loss(student, torch.tensor(WIDE), mask, 3) + hidden_loss(
        student, torch.tensor(WIDE[:, :, :6]), mask
    )
    loss.sum().backward()
    kept = student.grad.abs().sum(-1) > 0
    assert torch.equal(kept, mask.bool())


def batch(count=4):
    return loop.PadToLongest(0)([{"input_ids": row["input_ids"]} for row in random_rows(count)])


def total(lessons, student, inputs):
    """`Layerwise.loss` of a student without a head."""
    states = student(**inputs, output_hidden_states=True).hidden_states
    return lessons.losses(student, states, inputs, contextlib.nullcontext).sum().item()


def test_each_layer_learns_what_follows_the_layer_that_it_was_made_of(bert):
    assert Layerwise(bert, [0, 1], BOTH).targets == [0, 1, 3]
    assert Layerwise(bert, [1], BOTH).targets == [0, 3]
    with pytest.raises(UserError, match="layers have 3, and its teacher's layers are 0 to 2"):
        Layerwise(bert, [0, 3], BOTH)


def test_the_loss_is_that_of_both_models_layers(bert):
    """Hidden states and the last layer's queries, keys and values, from hooks, summed in numpy."""
    student = from_teacher_layers(bert, [0, 1]).distilbert.eval()
    inputs = batch()
    seen = {}

    def note(name):
        return lambda module, args, output: seen.__setitem__(name, output.numpy(force=True))

    last = bert.bert.encoder.layer[-1].attention.self, student.transformer.layer[-1].attention
    names = ("query", "key", "value"), ("q_lin", "k_lin", "v_lin")
    for attention, linears in zip(last, names, strict=True):
        for kind, name in zip("qkv", linears, strict=True):
            getattr(attention, name).register_forward_hook(note((attention is last[0], kind)))
    theirs = [s.numpy(force=True) for s in bert.bert(**inputs, output_hidden_states=True).hidden_states]
    ours = [s.numpy(force=True) for s in student(**inputs, output_hidden_states=True).hidden_states]
    expected = 0.0
    for i, n in enumerate(inputs["attention_mask"].sum(1).tolist()):
        for state, target in ((0, 0), (1, 1), (2, 3)):
            expected += 0.7 * hidden_by_hand(ours[state][i], theirs[target][i], n)
        for kind in "qkv":
            expected += 0.4 * relations_by_hand(seen[False, kind][i], seen[True, kind][i], n, 4)
    assert total(Layerwise(bert, [0, 1], BOTH), student, inputs) == pytest.approx(expected, rel=1e-5)


def test_all_layers_of_the_teacher_have_no_loss(bert):
    student = from_teacher_layers(bert, [0, 1, 2]).distilbert.eval()
    assert total(Layerwise(bert, [0, 1, 2], BOTH), student, batch()) == pytest.approx(0, abs=1e-6)


def narrow_student():
    return tiny_distilbert(dim=8, n_heads=2, dropout=0.0, attention_dropout=0.0).distilbert


def test_a_narrower_student_has_a_projection_that_starts_as_the_least_squares_fit(bert):
    student = narrow_student().eval()
    assert layerwise.relation_heads(student, bert) == 4
    lessons = Layerwise(bert, [0], LayerLosses(hidden=1.0, relations=0.0))
    lessons.attach(student, random_rows())
    inputs = layerwise.some(random_rows(), 0)
    tokens = inputs["attention_mask"].bool()
    ours = student(**inputs, output_hidden_states=True).hidden_states
    theirs = bert.bert(**inputs, output_hidden_states=True).hidden_states
    x = torch.cat([ours[0][tokens], ours[1][tokens]]).numpy(force=True)
    y = torch.cat([theirs[0][tokens], theirs[3][tokens]]).numpy(force=True)
    fit, *_ = np.linalg.lstsq(x, y, rcond=1e-3)
    np.testing.assert_allclose(student.hidden_projection.weight.T.numpy(force=True), fit, atol=1e-4)
    lessons.detach(student)
    assert not any("projection" in name for name in student.state_dict())


def trainer(bert, *callbacks):
    torch.manual_seed(3)
    student = narrow_student()
    lessons = Layerwise(bert, [0], BOTH)
    lessons.attach(student, random_rows())
    hyper = Training(epochs=3, batch_size=8, learning_rate=3e-3, weight_decay=0.01, warmup=0.1, dropout=0.0)
    return LayerwiseTrainer(
        student,
        loop.arguments(hyper, "general", 0, prediction_loss_only=True),
        train_dataset=random_rows(),
        eval_dataset=random_rows(12),
        data_collator=loop.PadToLongest(0),
        callbacks=list(callbacks),
        layerwise=lessons,
    )


def test_an_interrupted_run_resumes_with_its_projection(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_that_it_resumes(lambda *callbacks: trainer(bert, *callbacks), tmp_path)


def test_the_losses_fall_and_the_evaluation_is_the_loss(bert, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    student = narrow_student()
    lessons = Layerwise(bert, [0], BOTH)
    hyper = Training(epochs=8, batch_size=8, learning_rate=1e-2, weight_decay=0.0, warmup=0.1, dropout=0.0)
    rows = random_rows()
    kept = []
    monkeypatch.setattr(Layerwise, "detach", lambda self, model: kept.append(model.hidden_projection))
    history = layerwise.imitate(student, lessons, "general", hyper, 0, rows, rows)
    losses = [epoch["eval_loss"] for epoch in history]
    assert losses[-1] < 0.9 * losses[0]
    whole = total(lessons, student.eval(), batch(40)) / 40
    assert losses[-1] == pytest.approx(whole, rel=1e-2)  # bf16, where the CPU has it
    assert f"validation={losses[-1]:.3f}" in capfd.readouterr().err
    assert kept == [student.hidden_projection]


def test_a_training_that_diverges_is_one_line(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hyper = Training(epochs=1, batch_size=8, learning_rate=1e30, weight_decay=0.0, warmup=0.0, dropout=0.0)
    with pytest.raises(UserError, match=r"the training has diverged, .* lower its learning_rate"):
        layerwise.imitate(
            narrow_student(), Layerwise(bert, [0], BOTH), "general", hyper, 0, random_rows(), random_rows(8)
        )


def test_the_teacher_is_not_trained():
    teacher = tiny_bert()
    student = from_teacher_layers(teacher, [0]).distilbert
    inputs = batch()
    states = student(**inputs, output_hidden_states=True).hidden_states
    Layerwise(teacher, [0], BOTH).losses(student, states, inputs, contextlib.nullcontext).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.transformer.layer[0].attention.k_lin.weight.grad.abs().sum() > 0
