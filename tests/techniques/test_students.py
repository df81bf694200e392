import contextlib

import numpy as np
import torch
from conftest import random_rows, shaken, tiny_bert

from stages.techniques.settings import LayerLosses
from stages.techniques.students import from_teacher_layers, narrowed, principal_basis
from stages.training import layerwise
from stages.training.layerwise import Layerwise


def batch():
    return layerwise.some(random_rows(), 0)


def states(model):
    inputs = batch()
    tokens = inputs["attention_mask"].bool()
    with torch.no_grad():
        return [s[tokens] for s in model(**inputs, output_hidden_states=True).hidden_states]


def student():
    return from_teacher_layers(shaken(tiny_bert()), [0, 2]).distilbert.eval()


def test_a_basis_that_reorders_the_dimensions_reorders_the_hidden_states():
    """Norms commute with it, so nothing else changes."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    reordered = narrowed(student(), torch.eye(16)[:, order], 32)
    for ours, theirs in zip(states(reordered), states(student()), strict=True):
        torch.testing.assert_close(ours, theirs[:, order], rtol=1e-4, atol=1e-5)


def test_heads_and_columns_that_do_nothing_go_first():
    """The second and the fourth head write nothing, nor do ten columns: without them all is as it was."""
    whole = student()
    for block in whole.transformer.layer:
        block.attention.out_lin.weight.data[:, [4, 5, 6, 7, 12, 13, 14, 15]] = 0.0
        block.ffn.lin2.weight.data[:, ::3] = 0.0
    smaller = narrowed(whole, torch.eye(16), 21)
    assert smaller.config.hidden_dim == 21
    for ours, theirs in zip(states(smaller), states(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    half = narrowed(whole, torch.eye(16)[:, :8], 21)
    assert (half.config.dim, half.config.n_heads) == (8, 2)
    for block, before in zip(half.transformer.layer, whole.transformer.layer, strict=True):
        kept = before.attention.v_lin.bias[[0, 1, 2, 3, 8, 9, 10, 11]]
        assert torch.equal(block.attention.v_lin.bias, kept)


def test_the_basis_keeps_the_most_that_a_width_can():
    bert = tiny_bert()
    basis = principal_basis(bert, batch(), 8)
    torch.testing.assert_close(basis.T @ basis, torch.eye(8), rtol=0, atol=1e-5)
    rows = torch.cat(states(bert.bert)).numpy()
    kept = np.square(rows @ basis.numpy()).sum()
    values = np.linalg.svd(rows, compute_uv=False)
    assert kept / np.square(values[:8]).sum() > 0.9999
    assert torch.equal(principal_basis(bert, batch(), 16), torch.eye(16))


def test_a_narrowed_start_is_nearer_to_the_teacher_than_a_random_one():
    bert = shaken(tiny_bert())
    narrow = narrowed(student(), principal_basis(bert, batch(), 8), 16)
    losses = []
    for model in (narrow, type(narrow)(narrow.config)):
        lessons = Layerwise(bert, [0, 2], LayerLosses(hidden=1.0, relations=0.0))
        lessons.attach(model, random_rows())
        inputs = batch()
        outputs = model.eval()(**inputs, output_hidden_states=True).hidden_states
        losses.append(lessons.losses(model, outputs, inputs, contextlib.nullcontext).sum().item())
    assert losses[0] < 0.7 * losses[1]
