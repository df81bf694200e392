import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.checkpoints import encoder
from stages.techniques.masks import attach, largest, zeros
from stages.techniques.students import from_teacher_layers
from stages.training.distillation import KeepZeros
from stages.training.schedules import gradual


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, 0), (0.1, 0), (0.3, 0.8 * (1 - (2 / 3) ** 3)), (0.4, 0.7), (0.7, 0.8), (1, 0.8)],
)
def test_gradual_schedule(progress, expected):
    assert gradual(progress, 0.8, 0.1, 0.7) == pytest.approx(expected)


def test_gradual_schedule_never_falls():
    values = [gradual(t / 200, 0.9, 0.2, 0.8) for t in range(201)]
    assert values == sorted(values)


@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=60),
    st.floats(0, 1),
)
def test_largest(values, sparsity):
    """An independent way to the same: what goes is the head of a stable sort."""
    mask = largest(torch.tensor(values), sparsity)
    kept = np.argsort(values, kind="stable")[round(sparsity * len(values)) :]
    assert mask.nonzero().flatten().tolist() == sorted(kept.tolist())


def test_largest_has_the_shape_of_its_values():
    values = torch.tensor([[1.0, 4.0, 3.0], [2.0, -5.0, 3.0]], requires_grad=True)
    assert largest(values, 0.5).tolist() == [[False, True, True], [False, False, True]]
    assert largest(values, 0.0).all()


def test_zeros_are_counted(bert):
    """In the matrices of the encoder's blocks, and there alone."""
    student = from_teacher_layers(bert, [0, 1])
    torch.manual_seed(0)
    with torch.no_grad():
        student.distilbert.transformer.layer[0].ffn.lin1.weight[:8] = -0.0  # 8 of 32 rows
        for parameter in student.distilbert.transformer.layer[1].parameters():
            parameter.mul_(torch.rand_like(parameter) < 0.7)
        student.pre_classifier.weight.zero_()
        student.distilbert.embeddings.word_embeddings.weight.zero_()
    fractions = zeros(student)
    assert fractions["transformer.layer.0.ffn.lin1"] == 0.25
    assert fractions["transformer.layer.0.attention.q_lin"] == 0
    names = re.compile(r"distilbert\.(transformer\..+)\.weight")
    matrices = {
        names.fullmatch(name)[1]: array
        for name, array in ((n, p.detach().numpy()) for n, p in student.named_parameters())
        if array.ndim == 2 and names.fullmatch(name)
    }
    assert len(matrices) == 2 * 6
    everything = np.concatenate([array.ravel() for array in matrices.values()])
    expected = {"overall": everything, **matrices}
    assert fractions == pytest.approx({name: np.mean(array == 0) for name, array in expected.items()})


@pytest.mark.parametrize("masked", [False, True])
def test_keep_zeros(bert, masked):
    """A step moves all weights; those that were zero are set back, masked layers' as well."""
    layer = encoder.blocks(bert)[1].up
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) < 0.5)
    before = layer.weight.detach().clone()
    if masked:
        attach(layer, *layer.weight.shape)
    callback = KeepZeros(bert)
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.sub_(0.25)
    other = encoder.blocks(bert)[0].up.weight.clone()
    callback.on_step_end(None, None, None)
    assert torch.equal(layer.weight, torch.where(before == 0, 0.0, before - 0.25))
    assert not layer.weight[before == 0].signbit().any()
    assert torch.equal(encoder.blocks(bert)[0].up.weight, other)
