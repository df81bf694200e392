import collections
import functools
import logging
import shutil
import tempfile

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from stages.core.errors import UserError
from stages.runtime import load
from stages.techniques import dynamic_int8, int8, static_int8

METHODS = ["min-max", "percentile", "entropy"]
RNG = np.random.default_rng(0)
TEXTS = [" ".join(f"w{i}" for i in RNG.integers(13, 60, n)) for n in RNG.integers(1, 9, 20)]
QUERIES = ["send money to my car", "rent a car in w20", "my balance", "w33 w44 w55 w21 w17 w30", "to w40"]


def convert(parent, folder, texts=TEXTS, calibration="min-max", per_channel=True, reduce_range=True):
    folder.mkdir()
    shutil.copyfile(parent / "tokenizer.json", folder / "tokenizer.json")
    return static_int8.quantize(parent, folder, texts, calibration, per_channel, reduce_range)


@pytest.fixture(scope="module")
def static(exported, tmp_path_factory):
    """The folder of the student or teacher as static int8, made when it is first asked for."""

    @functools.cache
    def make(calibration="min-max", per_channel=True, reduce_range=True, parent="student-traced"):
        folder = tmp_path_factory.mktemp("static") / "model"
        convert(exported / parent, folder, TEXTS, calibration, per_channel, reduce_range)
        return folder

    return make


def graph(folder):
    return onnx.load(folder / "model.onnx").graph


def tensors(folder):
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph(folder).initializer}


def disagreement(folder, reference):
    expected = load(reference).logits(QUERIES)
    return np.abs(load(folder).logits(QUERIES) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("calibration", ["min-max", "percentile"])
@pytest.mark.parametrize("parent", ["student-traced", "teacher-traced"])
def test_is_close_to_its_parent(static, exported, calibration, parent):
    assert 0 < disagreement(static(calibration, parent=parent), exported / parent) < 0.25


def test_entropy_is_near_its_parent(static, exported):
    """It cuts far into the even distributions of an untrained model."""
    assert 0 < disagreement(static("entropy"), exported / "student-traced") < 0.4


def test_per_tensor_is_close_to_its_parent(static, exported):
    assert 0 < disagreement(static(per_channel=False), exported / "student-traced") < 0.25


def test_what_it_gives(exported, tmp_path):
    measured = convert(exported / "student-traced", tmp_path / "int8")
    # Of two blocks: six products with weights and two of activations. And the head's two.
    assert measured == {"range_queries": 20, "quantized_nodes": 14, "float_nodes": 4}


def test_products_with_weights_run_on_integers(static, tmp_path):
    """In the graph as ONNX Runtime executes it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.onnx")
    options.log_severity_level = 3  # no warning that the graph is for this machine
    onnxruntime.InferenceSession(static() / "model.onnx", options, providers=["CPUExecutionProvider"])
    nodes = collections.Counter(node.op_type for node in graph(tmp_path).node)
    assert (nodes["MatMulIntegerToFloat"], nodes["QGemm"]) == (12, 2)
    assert nodes["MatMul"] + nodes["FusedMatMul"] == 4  # attention
    assert nodes["Gemm"] == 0


def test_per_tensor_has_a_scale_a_matrix(static):
    values = tensors(static(per_channel=False))
    weights = {n.removesuffix("_quantized") for n, v in values.items() if v.dtype == np.int8 and v.ndim == 2}
    assert len(weights) == 14
    assert {values[f"{name}_scale"].size for name in weights} == {1}


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_mapped_as_written(static, exported, per_channel, reduce_range):
    floats = tensors(exported / "student-traced")
    ints = tensors(static(per_channel=per_channel, reduce_range=reduce_range))
    compared = 0
    for node in graph(exported / "student-traced").node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in floats:
            name = node.input[1]
            axis = None if not per_channel else 0 if node.op_type == "Gemm" else 1
            scale, zero = int8.scale_and_zero_point(floats[name], True, reduce_range, axis)
            assert np.array_equal(scale.ravel(), ints[f"{name}_scale"].ravel())
            assert ints[f"{name}_quantized"].dtype == np.int8
            assert not ints[f"{name}_zero_point"].any()
            assert np.array_equal(int8.quantize(floats[name], scale, zero), ints[f"{name}_quantized"])
            compared += 1
    assert compared == 14


def test_embeddings_are_those_of_dynamic_int8(static, models):
    (models / "dynamic").mkdir()
    dynamic_int8.quantize(models / "student-traced", models / "dynamic", True, True)
    theirs, ours = tensors(models / "dynamic"), tensors(static())
    names = [name for name in theirs if "embeddings" in name]
    assert any(theirs[name].shape == (60, 16) for name in names)
    assert all(np.array_equal(theirs[name], ours[name]) for name in names)
    assert not any("embeddings" in name for name in ours if name not in theirs)


def activations(parent, texts):
    """Every float tensor of the parent's graph that a product reads, over all of `texts`."""
    model = onnx.load(parent / "model.onnx")
    constants = {t.name for t in model.graph.initializer}
    names = {
        n.input[0] for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in constants
    }
    float32 = onnx.TensorProto.FLOAT
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, float32, None) for n in sorted(names))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(parent / "tokenizer.json"))
    seen = {name: [] for name in names}
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        outputs = session.run(sorted(names), {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for name, output in zip(sorted(names), outputs, strict=True):
            seen[name].append(output.ravel())
    return {name: np.concatenate(parts) for name, parts in seen.items()}


def test_ranges_are_those_of_the_queries(static, exported):
    seen = activations(exported / "student-traced", TEXTS)
    assert len(seen) == 10  # queries, keys and values share theirs
    values = tensors(static())
    for name, all_of_it in seen.items():
        scale, zero_point = int8.scale_and_zero_point(all_of_it, symmetric=False)
        # The embeddings are int8 when the ranges are measured.
        assert values[f"{name}_scale"] == pytest.approx(scale, rel=0.01)
        assert abs(int(values[f"{name}_zero_point"]) - int(zero_point)) <= 1


def test_percentile_is_of_each_tensor(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(static_int8, "PERCENTILE", 80)
    convert(exported / "student-traced", tmp_path / "int8", calibration="percentile")
    values = tensors(tmp_path / "int8")
    for name, all_of_it in activations(exported / "student-traced", TEXTS).items():
        cut = np.percentile(all_of_it, [10, 90], method="inverted_cdf")
        scale, _ = int8.scale_and_zero_point(cut.astype(np.float32), symmetric=False)
        assert values[f"{name}_scale"] == pytest.approx(scale, rel=0.05)


def test_percentile_and_entropy_cut_off(static, exported):
    names = activations(exported / "student-traced", TEXTS[:1])
    whole, percentile, entropy = (tensors(static(calibration)) for calibration in METHODS)
    for cut in (percentile, entropy):
        assert all(cut[f"{name}_scale"] <= whole[f"{name}_scale"] * 1.001 for name in names)
    assert any(entropy[f"{name}_scale"] < whole[f"{name}_scale"] * 0.99 for name in names)


def test_scales_are_fixed(static):
    g = graph(static())
    constants = {t.name for t in g.initializer}
    assert not [n for n in g.node if n.op_type == "DynamicQuantizeLinear"]
    quantizers = [n for n in g.node if n.op_type == "QuantizeLinear"]
    assert len(quantizers) == 10
    assert all(set(n.input[1:]) <= constants for n in quantizers)


@pytest.mark.parametrize("parent", ["student-traced", "teacher-traced"])
def test_all_but_products_reads_floats(static, exported, parent):
    """Without the quantizers, every other node but look-ups reads what it reads in the parent."""
    g = graph(static(parent=parent))
    quantized = {n.output[0] for n in g.node if n.op_type == "QuantizeLinear"}
    pairs = [n for n in g.node if n.op_type == "DequantizeLinear" and n.input[0] in quantized]
    rest = [n for n in g.node if n not in pairs and n.op_type not in ("MatMul", "Gemm")]
    assert len(pairs) == len(quantized) > 0
    assert not [n.op_type for n in rest if set(n.input) & {pair.output[0] for pair in pairs}]
    assert {"Softmax", "SkipLayerNormalization", "BiasGelu"} <= {n.op_type for n in rest}
    before = {n.name: list(n.input) for n in graph(exported / parent).node if n.name}
    after = {n.name: list(n.input) for n in rest if n.name in before and n.op_type != "Gather"}
    assert all(after[name] == before[name] for name in after)


def test_a_query_does_not_depend_on_its_batch(static):
    classifier = load(static())
    alone = np.concatenate([classifier.logits([text]) for text in QUERIES])
    together = classifier.logits(QUERIES)
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_same_queries_same_bytes(static, exported, tmp_path):
    for calibration in METHODS:
        convert(exported / "student-traced", tmp_path / calibration, calibration=calibration)
        again = (tmp_path / calibration / "model.onnx").read_bytes()
        assert again == (static(calibration) / "model.onnx").read_bytes()


def test_padding_stays_out_of_the_ranges(static, models):
    parent = models / "student-traced"
    tokenizer = Tokenizer.from_file(str(parent / "tokenizer.json"))
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(parent / "tokenizer.json"))
    convert(parent, models / "int8")
    assert (models / "int8" / "model.onnx").read_bytes() == (static() / "model.onnx").read_bytes()


def test_nothing_is_left_behind(models, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    parent = models / "student-traced"
    before = {file: file.read_bytes() for file in parent.iterdir()}
    convert(parent, models / "int8")
    assert {f.name for f in (models / "int8").iterdir()} == {"model.onnx", "config.json", "tokenizer.json"}
    assert {file: file.read_bytes() for file in parent.iterdir()} == before
    assert not list(temporary.iterdir())
    assert sorted(f.name for f in tmp_path.iterdir()) == ["models", "temporary"]


def test_is_quiet(exported, tmp_path, capfd, caplog):
    level = logging.getLogger().level
    convert(exported / "student-traced", tmp_path / "int8", calibration="percentile")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger().level == level


def test_no_matrix_stays_float(static):
    matrices = [v for v in tensors(static()).values() if v.dtype == np.float32 and v.ndim == 2]
    assert not [matrix.shape for matrix in matrices if min(matrix.shape) > 1]


def test_no_queries(exported, tmp_path):
    with pytest.raises(UserError, match="no queries to choose ranges from"):
        convert(exported / "student-traced", tmp_path / "int8", texts=[])
    assert [f.name for f in (tmp_path / "int8").iterdir()] == ["tokenizer.json"]


def test_a_parent_with_attention_in_one_operator(exported, tmp_path):
    with pytest.raises(UserError, match="method: traced"):
        convert(exported / "student-ort", tmp_path / "int8")


def test_parent_without_a_graph(exported, tmp_path):
    with pytest.raises(UserError, match=r"student has no model\.onnx"):
        convert(exported / "student", tmp_path / "int8")
