import json
import math
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save_file
from safetensors.torch import load as load_torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch_file

from stages.checkpoints import sparse_storage
from stages.core.errors import UserError
from stages.runtime import load as load_model
from stages.techniques import dynamic_int8

QUERIES = ["send money to my car", "rent a car in w20", "my balance", "w33 w44 w55"]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """Folders `parent`, with a config.json, and `folder`."""
    root = tmp_path_factory.mktemp("sparse")
    for name in ("parent", "folder"):
        (root / name).mkdir()
    (root / "parent" / "config.json").write_text('{"id2label": {}}')
    return root


def packed(root, **arrays):
    """What pack returns of a model.safetensors of `arrays`, and the file it wrote."""
    save_file(arrays, root / "parent" / "model.safetensors")
    measured = sparse_storage.pack(root / "parent", root / "folder")
    return measured, root / "folder" / "model.safetensors.sparse"


SHAPES = [(), (0,), (0, 4), (1,), (1000,), (40, 50), (3, 20, 30), (1, 700)]
DTYPES = ["float64", "float32", "float16", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool"]


@st.composite
def arrays(draw):
    """Mostly one value, some of another, and random bits: all NaNs, both zeros, denormals, ..."""
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = math.prod(shape)
    if dtype.kind == "b":
        return np.array(rng.random(shape) < draw(st.floats(0, 1)))
    array = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).copy()
    frequent = [np.zeros(1, dtype), -np.zeros(1, dtype), array[:1], np.full(1, 100, dtype)]
    if dtype.kind == "f":
        frequent += [np.array([x], dtype) for x in (np.inf, -np.inf, np.nan)]
    for share in draw(st.lists(st.sampled_from([0, 0.1, 0.5, 0.9, 1]), max_size=3)):
        array[rng.random(size) < share] = draw(st.sampled_from(frequent))
    return array.reshape(shape)


@settings(deadline=None)
@given(st.lists(arrays(), max_size=4))
def test_any_array_comes_back_bit_for_bit(scratch, arrays):
    measured, file = packed(scratch, **{f"tensor {i}": array for i, array in enumerate(arrays)})
    data = (scratch / "parent" / "model.safetensors").read_bytes()
    assert sparse_storage.unpack(file) == data
    assert measured["dense"] == len(data)
    assert measured["packed"] == file.stat().st_size
    assert max(measured["bitmask"], measured["csr"]) <= len(data)
    for i, array in enumerate(arrays):
        back = load(sparse_storage.unpack(file))[f"tensor {i}"]
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_torch_state_dict(scratch):
    """Of types that numpy lacks as well."""
    torch.manual_seed(0)
    state = {"half": torch.randn(40, 50).bfloat16(), "whole": torch.randn(30, 40), "step": torch.tensor(3)}
    state["half"][torch.rand(40, 50) < 0.8] = 0
    save_torch_file(state, scratch / "parent" / "model.safetensors")
    sparse_storage.pack(scratch / "parent", scratch / "folder")
    back = load_torch(sparse_storage.unpack(scratch / "folder" / "model.safetensors.sparse"))
    assert back.keys() == state.keys()
    assert all(back[name].dtype == t.dtype and torch.equal(back[name], t) for name, t in state.items())
    assert (scratch / "folder" / "config.json").read_bytes() == (
        scratch / "parent" / "config.json"
    ).read_bytes()


def entropy(share):
    """Bits an entry of a random mask with this share of ones."""
    return -sum(p * math.log2(p) for p in (share, 1 - share))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_bytes_follow_the_formulas(scratch, dtype):
    rng = np.random.default_rng(0)
    rows, columns = 300, 1000
    matrix = np.frombuffer(rng.bytes(rows * columns * np.dtype(dtype).itemsize), dtype).copy()
    matrix[(matrix == 0) | (rng.random(rows * columns) < 0.9)] = 0
    kept, width = int((matrix != 0).sum()), matrix.itemsize
    measured, _ = packed(scratch, weight=matrix.reshape(rows, columns))
    header = measured["dense"] - matrix.nbytes
    assert measured["bitmask"] == header + rows * columns / 8 + kept * width
    assert measured["csr"] == header + kept * (width + 2) + 4 * (rows + 1)
    # Random bytes cannot be deflated, the mask down to its entropy.
    least = rows * columns * entropy(kept / matrix.size) / 8 + kept * width
    assert least < measured["packed"] < 1.05 * least + 500


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_dense_tensors_do_not_grow(scratch, dtype):
    rng = np.random.default_rng(0)
    arrays = [np.frombuffer(rng.bytes(400_000), dtype).reshape(100, -1) for _ in range(3)]
    measured, _ = packed(scratch, **{str(i): array for i, array in enumerate(arrays)})
    assert measured["bitmask"] == measured["csr"] == measured["dense"]
    assert measured["packed"] < 1.001 * measured["dense"] + 200 * len(arrays)


def test_uint8_around_another_zero_point(scratch):
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((200, 300)) < 0.9, 128, rng.integers(0, 256, (200, 300))).astype("uint8")
    measured, file = packed(scratch, weight=weights)
    assert measured["packed"] < 0.25 * measured["dense"]
    assert np.array_equal(load_torch(sparse_storage.unpack(file))["weight"].numpy(), weights)


@pytest.fixture
def pruned(models):
    """The `models` with 80 % of the student's matrices zero, and `student-ort-int8`, of those."""
    rng = np.random.default_rng(0)

    def zeroed(array):
        return array * (rng.random(array.shape) < 0.2)

    file = models / "student" / "model.safetensors"
    state = load(file.read_bytes())
    save_file({k: zeroed(v) if v.ndim == 2 else v for k, v in state.items()}, file, {"format": "pt"})
    graph = onnx.load(models / "student-ort" / "model.onnx")
    for tensor in graph.graph.initializer:
        if len(tensor.dims) == 2:
            tensor.raw_data = zeroed(onnx.numpy_helper.to_array(tensor)).tobytes()
    onnx.save(graph, models / "student-ort" / "model.onnx")
    int8 = shutil.copytree(models / "student-ort", models / "student-ort-int8")
    dynamic_int8.quantize(models / "student-ort", int8, per_channel=True, reduce_range=False)
    return models


def test_torch_folder(pruned):
    (pruned / "sparse").mkdir()
    measured = sparse_storage.pack(pruned / "student", pruned / "sparse")
    assert measured == sparse_storage.sizes(pruned / "student")
    assert measured["packed"] < 0.7 * measured["dense"]
    back = load_torch(sparse_storage.unpack(pruned / "sparse" / "model.safetensors.sparse"))
    expected = load_file(pruned / "student" / "model.safetensors")
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in expected)
    assert sorted(f.name for f in (pruned / "sparse").iterdir()) == [
        "config.json",
        "model.safetensors.sparse",
    ]


@pytest.mark.parametrize("name", ["student-ort", "student-ort-int8"])
def test_onnx_folder(pruned, name):
    (pruned / "sparse").mkdir()
    measured = sparse_storage.pack(pruned / name, pruned / "sparse")
    data = sparse_storage.unpack(pruned / "sparse" / "model.onnx.sparse")
    assert data == (pruned / name / "model.onnx").read_bytes()
    matrices = [t for t in onnx.load_model_from_string(data).graph.initializer if len(t.dims) == 2]
    stored = sum(len(t.raw_data) for t in matrices)
    assert measured["dense"] - measured["bitmask"] > 0.25 * stored
    reference = load_model(pruned / name)
    expected = reference.logits(QUERIES)
    reference.session.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert np.array_equal(reference.logits(QUERIES), expected)


def test_onnx_is_unpacked_without_torch_or_onnx(pruned):
    sparse_storage.pack(pruned / "student-ort", pruned / "student-ort-int8")
    code = (
        "import sys; from pathlib import Path; from stages.checkpoints import sparse_storage; "
        "sparse_storage.unpack(Path('models/student-ort-int8/model.onnx.sparse')); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'onnx')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_damage_is_an_error_of_one_line(scratch):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(30, 40)).astype("float32") * (rng.random((30, 40)) < 0.3)
    _, file = packed(scratch, weight=weights, counts=np.arange(300) // 200)
    whole, expected = file.read_bytes(), sparse_storage.unpack(file)
    header = 8 + int.from_bytes(whole[:8], "little")
    flipped = []
    for position in [*range(header), *rng.integers(header, len(whole), 500)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        flipped.append(bytes(damaged))
    found = 0
    for content in [whole[:-1], whole[:100], whole[:4], b"", whole + b"x", *flipped]:
        file.write_bytes(content)
        try:
            assert sparse_storage.unpack(file) == expected
        except UserError as error:
            found += 1
            assert str(file) in str(error)
            assert "\n" not in str(error)
    assert found > 0.9 * (len(flipped) + 5)


@pytest.mark.parametrize("key", ["index", "rest", "weight.mask", "weight.values"])
def test_streams_of_another_file(scratch, key):
    """Each sound by itself."""
    rng = np.random.default_rng(0)
    files = []
    for rows in (30, 40):
        _, file = packed(scratch, weight=rng.normal(size=(rows, 50)) * (rng.random((rows, 50)) < 0.5))
        files.append(load(file.read_bytes()))
    save_file({**files[0], key: files[1][key]}, file)
    with pytest.raises(UserError, match="is damaged"):
        sparse_storage.unpack(file)


def test_folder_without_such_a_file(models):
    (models / "student" / "model.safetensors").rename(models / "student" / "model.int8.pt")
    with pytest.raises(UserError, match=r"student has neither model.onnx nor model.safetensors"):
        sparse_storage.pack(models / "student", models / "teacher")
    assert json.loads((models / "teacher" / "config.json").read_text())["architectures"]
