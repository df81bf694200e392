import numpy as np
import onnx
import pytest
import torch

from stages.core.model_folder import size_mb
from stages.runtime import load
from stages.techniques import dynamic_int8

QUERIES = ["send money to my car", "rent a car in w20", "my balance", "w33 w44 w55"]


def quantized(parent, per_channel=True, reduce_range=True):
    folder = parent.with_name(f"{parent.name}-int8-{per_channel}-{reduce_range}")
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((parent / "tokenizer.json").read_bytes())
    dynamic_int8.quantize(parent, folder, per_channel, reduce_range)
    return folder


def disagreement(folder, reference):
    expected = load(reference).logits(QUERIES)
    return np.abs(load(folder).logits(QUERIES) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("per_channel", [True, False])
def test_torch_int8_is_close(models, per_channel):
    folder = quantized(models / "student", per_channel)
    assert 0 < disagreement(folder, models / "student") < 0.2
    assert (folder / "model.int8.pt").exists()
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("per_channel", [True, False])
def test_onnx_int8_is_close(models, per_channel):
    # In the reduced range, where no CPU saturates.
    assert 0 < disagreement(quantized(models / "student-ort", per_channel), models / "student-ort") < 0.2


def int8_weights(folder):
    tensors = onnx.load(folder / "model.onnx").graph.initializer
    return {
        t.name: onnx.numpy_helper.to_array(t)
        for t in tensors
        if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(t.dims) == 2
    }


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_onnx_weights_and_embeddings_are_int8(models, name):
    """The quantizer skips what it does not know without a word."""
    layers = {"student": 2, "teacher": 3}[name]
    folder = quantized(models / f"{name}-ort", reduce_range=False)
    shapes = sorted(w.shape for w in int8_weights(folder).values())
    assert shapes.count((16, 32)) == shapes.count((32, 16)) == layers  # feed-forward
    assert shapes.count((16, 48)) == layers - 1  # queries, keys and values
    assert (60, 16) in shapes  # word embeddings
    graph = onnx.load(folder / "model.onnx").graph
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    floats = [t for t in tensors if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    assert not [t.name for t in floats if min(t.dims) > 1]


def test_reduced_range_keeps_to_seven_bits(models):
    reduced = int8_weights(quantized(models / "student-ort", reduce_range=True))
    full = int8_weights(quantized(models / "student-ort", reduce_range=False))
    matrices = [name for name, w in reduced.items() if w.shape in {(16, 16), (16, 32), (32, 16)}]
    assert len(matrices) == 10
    matrices += [name for name, w in reduced.items() if w.shape == (16, 48)]
    assert max(np.abs(reduced[name].astype(int)).max() for name in matrices) <= 64
    assert max(np.abs(full[name].astype(int)).max() for name in matrices) == 127


def test_per_channel_has_a_scale_a_channel(models):
    def scales(folder):
        tensors = onnx.load(folder / "model.onnx").graph.initializer
        return sorted(onnx.numpy_helper.to_array(t).size for t in tensors if t.name.endswith("_scale"))

    assert max(scales(quantized(models / "student-ort", per_channel=False))) == 1
    assert scales(quantized(models / "student-ort", per_channel=True)).count(32) == 2


def test_size_falls(models):
    """A wide enough model, so that weights outweigh the rest: its linear layers to a quarter."""
    from transformers import AutoModelForSequenceClassification, DistilBertConfig

    config = DistilBertConfig.from_pretrained(models / "student", dim=128, hidden_dim=512)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    wide = models / "wide"
    model.save_pretrained(wide)
    (wide / "tokenizer.json").write_bytes((models / "student" / "tokenizer.json").read_bytes())
    assert size_mb(quantized(wide)) < 0.4 * size_mb(wide)
