import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from stages.checkpoints import encoder
from stages.runtime.onnx_session import OnnxSession
from stages.runtime.torch_session import TorchSession
from stages.techniques import export

SHAPES = [(1, 1), (1, 11), (2, 8), (5, 3), (3, 24)]


def inputs(batch, length):
    """Random ids, padded to `length` from lengths that shrink by one a row."""
    ids = np.random.default_rng(batch * 100 + length).integers(4, 60, (batch, length))
    mask = np.arange(length) < np.maximum(length - np.arange(batch), 1)[:, None]
    return ids * mask, mask.astype(np.int64)


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_same_logits_at_any_shape(models, name):
    graph = OnnxSession(models / f"{name}-ort" / "model.onnx", threads=1)
    reference = TorchSession(encoder.load(models / name), threads=1)
    for shape in SHAPES:
        expected = reference(*inputs(*shape))
        assert expected.std() > 0.1
        np.testing.assert_allclose(graph(*inputs(*shape)), expected, atol=2e-5)


def test_graph_is_optimised_and_self_contained(models):
    folder = models / "student-ort"
    assert sorted(path.name for path in folder.glob("*.onnx*")) == ["model.onnx"]
    model = onnx.load(folder / "model.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("SkipLayerNormalization") == 4  # two a layer
    assert operators.count("BiasGelu") == 2
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask"]
    for value in model.graph.input:
        assert [bool(d.dim_param) for d in value.type.tensor_type.shape.dim] == [True, True]
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "balance", "1": "oos", "2": "transfer"}


def test_zeros_survive_the_export(models, tmp_path):
    """A pruned matrix is as sparse in the graph as it was in torch."""
    model = AutoModelForSequenceClassification.from_pretrained(models / "student")
    weight = model.distilbert.transformer.layer[0].ffn.lin1.weight
    with torch.no_grad():
        weight[:, ::2] = 0
    model.save_pretrained(models / "pruned")
    export.apply(models / "pruned", tmp_path)
    tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert any(t.shape == (16, 32) and (t == 0).mean() == 0.5 for t in tensors)


def test_the_same_model_gives_the_same_file(models, tmp_path):
    """The exporter's stack traces name the machine's folders, and would differ from clone to clone."""
    content = (models / "student-ort" / "model.onnx").read_bytes()
    assert b".py" not in content and str(Path(export.__file__).parents[2]).encode() not in content
    export.apply(models / "student", tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == content


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_what_torch_traces_has_the_same_logits(models, name, tmp_path):
    """As encoders of other families are exported."""
    export.traced(models / name, tmp_path / "traced.onnx")
    written = OnnxSession(models / f"{name}-ort" / "model.onnx", threads=1)
    traced = OnnxSession(tmp_path / "traced.onnx", threads=1)
    for shape in SHAPES:
        np.testing.assert_allclose(written(*inputs(*shape)), traced(*inputs(*shape)), atol=2e-5)
    content = (tmp_path / "traced.onnx").read_bytes()
    assert b".py" not in content and str(Path(export.__file__).parents[2]).encode() not in content


def test_the_export_of_a_bert_imports_no_torch(models):
    code = (
        "import sys; from pathlib import Path; from stages.techniques import export; "
        "export.apply(Path('models/student'), Path('models')); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(export.__file__).parents[2])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"
