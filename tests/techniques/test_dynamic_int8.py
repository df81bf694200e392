import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stages.core.errors import UserError
from stages.core.model_folder import size_mb
from stages.runtime import load
from stages.runtime.onnx_session import OnnxSession
from stages.techniques import dynamic_int8, int8_embeddings

QUERIES = ["send money to my car", "rent a car in w20", "my balance", "w33 w44 w55"]


def quantized(parent, per_channel=True, reduce_range=True, embedding_bits=8):
    folder = parent.with_name(f"{parent.name}-int8-{per_channel}-{reduce_range}-{embedding_bits}")
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((parent / "tokenizer.json").read_bytes())
    dynamic_int8.quantize(parent, folder, per_channel, reduce_range, embedding_bits)
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


def tensors(folder):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "model.onnx").graph.initializer}


def int8_weights(folder):
    return {name: t for name, t in tensors(folder).items() if t.dtype in (np.int8, np.uint8) and t.ndim == 2}


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


def unpacked(weight, scales):
    """A table as its bytes in the file say: by hand, an entry at a time."""
    table = np.empty((len(weight), 2 * weight.shape[1]), np.float32)
    for (row, column), _ in np.ndenumerate(table):
        integer = weight[row, column // 2] >> (4 if column % 2 else 0) & 15
        table[row, column] = (int(integer) - 8) * np.float32(scales[row, column // 32])
    return table


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_4_bit_embeddings_are_what_onnx_runtime_reads(models, name):
    """What enters the norm of the embeddings, against the bytes of the file and against fp32."""
    floats = tensors(models / f"{name}-ort")
    folder = quantized(models / f"{name}-ort", embedding_bits=4)
    model = onnx.load(folder / "model.onnx")
    for output in ("words", "positions"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    ids = np.arange(60).reshape(4, 15)
    _, words, positions = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})

    ints = tensors(folder)
    prefix = {"student": "distilbert.embeddings.", "teacher": "bert.embeddings."}[name]
    word = f"{prefix}word_embeddings.weight"
    np.testing.assert_array_equal(words, unpacked(ints[f"{word}_4bit"], ints[f"{word}_scales"])[ids])
    expected = floats[word][ids]
    assert np.sqrt(np.mean((words - expected) ** 2) / np.mean(expected**2)) < 0.1
    places = floats[f"{prefix}position_embeddings.weight"]
    np.testing.assert_allclose(positions, places[:15], atol=np.ptp(places) / 255 / 2 * 1.01)
    assert (ints[f"{word}_4bit"].nbytes, ints[f"{word}_scales"].nbytes) == (60 * 16 / 2, 60 * 1 * 2)


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_4_bit_embeddings_change_nothing_else(models, name):
    """The logits are those of fp32 on the rounded tables; beyond the embeddings, int8 is what it was."""
    written = onnx.load(models / f"{name}-ort" / "model.onnx")
    rounded = onnx.load(models / f"{name}-ort" / "model.onnx")
    int8_embeddings.rewrite(written, 4)
    new = {t.name: onnx.numpy_helper.to_array(t) for t in written.graph.initializer}
    for tensor in rounded.graph.initializer:
        table = None
        if tensor.name.endswith("word_embeddings.weight"):
            table = unpacked(new[f"{tensor.name}_4bit"], new[f"{tensor.name}_scales"])
        elif tensor.name.endswith("position_embeddings.weight"):
            q, scale, zero = (new[f"{tensor.name}_{part}"] for part in ("quantized", "scale", "zero_point"))
            table = (q.astype(np.float32) - zero) * scale
        if table is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(table, tensor.name))
    ours, expected = (OnnxSession(model.SerializeToString(), threads=1) for model in (written, rounded))
    for shape in ((1, 1), (3, 24)):
        ids = np.random.default_rng(0).integers(0, 60, shape)
        mask = np.ones_like(ids)
        np.testing.assert_allclose(ours(ids, mask), expected(ids, mask), atol=1e-5)

    folder = quantized(models / f"{name}-ort", embedding_bits=4)
    as_before = tensors(quantized(models / f"{name}-ort"))
    found = tensors(folder)
    for tensor in (n for n in as_before if "embeddings" not in n):
        np.testing.assert_array_equal(found[tensor], as_before[tensor])
    assert not [n for n, t in found.items() if t.dtype == np.float32 and t.ndim > 1]
    nodes = onnx.load(folder / "model.onnx").graph.node
    read = {name for node in nodes for name in node.input} | {"logits"}
    assert found.keys() <= read and all(read & set(node.output) for node in nodes)


@pytest.mark.parametrize(
    ("parent", "message"),
    [("student", "runs on torch, whose embeddings stay fp32"), ("student-traced", "this one was traced")],
)
def test_4_bit_embeddings_need_a_written_graph(models, parent, message):
    with pytest.raises(UserError, match=message):
        quantized(models / parent, embedding_bits=4)
