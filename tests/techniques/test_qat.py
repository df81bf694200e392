import numpy as np
import onnx
import pytest
import torch
from conftest import random_rows, shaken, small_trainer
from torch import nn

from stages.checkpoints import encoder
from stages.runtime.onnx_session import OnnxSession
from stages.techniques import dynamic_int8, export, int4, masks, qat
from stages.techniques.int8 import dequantize, quantize, scale_and_zero_point
from stages.techniques.settings import Export
from stages.techniques.students import from_teacher_layers
from stages.training import loop
from stages.training.distillation import KeepZeros


def on_grid(values, reduce_range, axis):
    """What int8 makes of `values`: symmetric, a scale for each index along `axis`."""
    mapping = scale_and_zero_point(values, symmetric=True, reduce_range=reduce_range, axis=axis)
    return dequantize(quantize(values, *mapping), *mapping)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_rounded_weight(per_channel, reduce_range):
    """The grid of quantization.py, which is ONNX Runtime's; the gradient as without it."""
    torch.manual_seed(0)
    weight = torch.randn(8, 50) * torch.logspace(-2, 1, 8)[:, None]
    weight[3] = 0
    weight[:, ::7] = 0
    weight.requires_grad_()
    rounded = qat.RoundedWeight(64 if reduce_range else 127, per_channel)(weight)
    expected = on_grid(weight.detach().numpy(), reduce_range, 0 if per_channel else None)
    np.testing.assert_allclose(rounded.detach(), expected, rtol=1e-6)
    assert not rounded.detach()[weight == 0].any()
    factors = torch.randn(8, 50)
    (rounded * factors).sum().backward()
    assert torch.equal(weight.grad, factors)


def test_round_input():
    """Affine, 0 in the range, a scale for each query: by hand for three queries of two tokens."""
    values = torch.tensor(
        [
            [[-1.0, 0.012], [1.55, 0.0]],  # S = 0.01, Z = 100
            [[1.26, 2.553], [5.1, 0.7]],  # S = 0.02, Z = 0, for 0 is the least
            [[0.0, 0.0], [0.0, 0.0]],
        ],
        requires_grad=True,
    )
    rounded = qat.round_input(nn.Linear(2, 2), (values,))
    expected = [[[-1.0, 0.01], [1.55, 0.0]], [[1.26, 2.56], [5.1, 0.7]], [[0.0, 0.0], [0.0, 0.0]]]
    np.testing.assert_allclose(rounded.detach(), expected, atol=1e-6)
    factors = torch.arange(12.0).view(3, 2, 2)
    (rounded * factors).sum().backward()
    assert torch.equal(values.grad, factors)


def model(kind, bert):
    """One layer, the embeddings' tables frozen; biases and norms are not those of a fresh model."""
    if kind == "bert":
        made, bert.config.num_hidden_layers = bert, 1
        del bert.bert.encoder.layer[1:]
        bert.bert.embeddings.token_type_embeddings.requires_grad_(False)
    else:
        made = from_teacher_layers(bert, [0])
    encoder.freeze_embeddings(made, True)
    return shaken(made)


def train(made, *callbacks):
    """10 steps."""
    loop.fit(small_trainer(made, *callbacks, epochs=2), "")


def weights(made, kind):
    """The weights of its modules of a `kind`, by name."""
    return {n: m.weight.detach().clone().numpy() for n, m in made.named_modules() if isinstance(m, kind)}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_plain_layers_on_the_grid_are_left(per_channel, reduce_range, bert):
    made = model("bert", bert)
    names = made.state_dict().keys()
    matrices, tables = weights(made, nn.Linear), weights(made, nn.Embedding)
    qat.prepare(made, per_channel, reduce_range)
    prepared = loop.logits(made, random_rows())
    qat.convert(made)
    assert made.state_dict().keys() == names
    assert not any(m._forward_pre_hooks for m in made.modules())
    assert {type(m) for m in made.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    found = weights(made, nn.Linear)
    assert len(found) == 6 + 2  # pooler and head are quantized as well
    for name, weight in matrices.items():
        expected = on_grid(weight, reduce_range, 0 if per_channel else None)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
        assert np.abs(found[name] - weight).max() > 1e-3
    found = weights(made, nn.Embedding)
    for name, table in tables.items():
        mapping = scale_and_zero_point(table, symmetric=False)
        np.testing.assert_allclose(found[name], dequantize(quantize(table, *mapping), *mapping), rtol=1e-6)
    # Activations are not rounded any more.
    assert np.abs(loop.logits(made, random_rows()) - prepared).mean() > 1e-3


def test_in_float32_whatever_the_trainer_computes_in(bert):
    made = model("distilbert", bert)
    qat.prepare(made, per_channel=True, reduce_range=True)
    expected = loop.logits(made, random_rows())
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(loop.logits(made, random_rows()), expected)


def alone(made):
    """Logits of each query by itself."""
    return loop.logits(made, random_rows(), batch_size=1)


@pytest.mark.parametrize(("bits", "rank"), [(8, None), (4, None), (8, 8), (4, 8)])
@pytest.mark.parametrize(("kind", "per_channel"), [("distilbert", True), ("bert", False)])
def test_onnx_runtime_computes_what_was_trained(kind, per_channel, bits, rank, bert, tmp_path, monkeypatch):
    """In its dynamic int8, of the reduced range (in which no CPU saturates)."""
    monkeypatch.chdir(tmp_path)
    made = model(kind, bert)
    if rank:
        encoder.factorise(made, rank).weight.requires_grad_(False)
    qat.prepare(made, per_channel, reduce_range=True, embedding_bits=bits)
    train(made)
    prepared = alone(made)
    qat.convert(made)
    for name in ("qat", "ort", "int8"):
        (tmp_path / name).mkdir()
    made.save_pretrained(tmp_path / "qat")
    export.apply(tmp_path / "qat", tmp_path / "ort", Export(parent="any"))
    dynamic_int8.quantize(tmp_path / "ort", tmp_path / "int8", per_channel, True, bits)

    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    stored = [
        (q.astype(np.float64) - tensors[name.replace("_quantized", "_zero_point")])
        * tensors[name.replace("_quantized", "_scale")]
        for name, q in tensors.items()
        if name.endswith("_quantized")
    ]
    for name in [name for name in tensors if name.endswith("_4bit")]:
        halves = np.stack([tensors[name] & 15, tensors[name] >> 4], axis=-1).reshape(60, -1)
        stored.append(int4.dequantize(halves, tensors[name.replace("_4bit", "_scales")]))
    stored += [tensors["token_type"]] if "token_type" in tensors else []
    trained = [w.T for w in weights(made, nn.Linear).values()]
    tables = weights(made, nn.Embedding).values()
    trained += [table[0] if "token_type" in tensors and len(table) == 2 else table for table in tables]
    for weight in trained:
        assert any(s.shape == weight.shape and np.abs(s - weight).max() < 1e-6 for s in stored)

    session = OnnxSession(tmp_path / "int8" / "model.onnx", threads=1)
    ids = [row["input_ids"].numpy()[None] for row in random_rows()]
    int8 = np.concatenate([session(query, np.ones_like(query)) for query in ids])
    unrounded = np.abs(alone(made) - int8).mean()
    assert unrounded > 0.01
    assert np.abs(prepared - int8).mean() < 0.05 * unrounded


def test_what_was_pruned_stays_zero(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = model("distilbert", bert)
    with torch.no_grad():
        for module in encoder.linears(made).values():
            module.weight.mul_(masks.largest(module.weight.abs(), 0.75)).add_(0.0)
    before = weights(made, nn.Linear)
    qat.prepare(made, per_channel=True, reduce_range=True)
    train(made, KeepZeros(made))
    qat.convert(made)
    after = weights(made, nn.Linear)
    for name in encoder.linears(made):
        zeros = before[f"distilbert.{name}"] == 0
        found = after[f"distilbert.{name}"]
        assert zeros.mean() == 0.75
        assert not found[zeros].any()
        assert not np.signbit(found[found == 0]).any()
        # The others moved, beyond what rounding does.
        rounded = on_grid(before[f"distilbert.{name}"], reduce_range=True, axis=0)
        assert (found != rounded).mean() > 0.1
