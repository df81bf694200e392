import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.techniques import dynamic_int8
from stages.techniques.int8 import dequantize, quantize, scale_and_zero_point

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32) | st.floats(-4, 4, width=32)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=FLOATS)
AXES = st.sampled_from([None, 0, 1, -1])
FLAT = np.float32(1e-30)  # a scale for ranges that are all but empty is 1


@given(MATRICES, st.booleans(), st.booleans(), AXES)
def test_error_is_at_most_half_a_step(values, symmetric, reduce_range, axis):
    scale, zero_point = scale_and_zero_point(values, symmetric, reduce_range, axis)
    q = quantize(values, scale, zero_point)
    assert np.all(np.abs(values - dequantize(q, scale, zero_point)) <= scale * (0.5 + 1e-4))
    limit = {(True, False): 127, (True, True): 64, (False, False): 255, (False, True): 127}
    assert np.abs(q.astype(int)).max() <= limit[symmetric, reduce_range]
    assert q.dtype == (np.int8 if symmetric else np.uint8)


@given(MATRICES, st.booleans(), st.booleans(), AXES)
def test_zero_is_exact(values, symmetric, reduce_range, axis):
    scale, zero_point = scale_and_zero_point(values, symmetric, reduce_range, axis)
    zeros = np.zeros_like(values)
    assert not dequantize(quantize(zeros, scale, zero_point), scale, zero_point).any()


@given(MATRICES, st.booleans(), st.sampled_from([0, 1]))
def test_a_step_of_a_channel_is_at_most_the_tensors(values, symmetric, axis):
    """And with it the bound on the error."""
    whole, _ = scale_and_zero_point(values, symmetric)
    steps, _ = scale_and_zero_point(values, symmetric, axis=axis)
    flat = np.abs(values).max(axis=1 - axis, keepdims=True) < FLAT
    assert np.all((steps <= whole) | flat)


def test_per_channel_keeps_small_channels():
    values = np.array([[0.01, -0.02, 0.005], [10.0, -20.0, 5.0]], dtype=np.float32)

    def error(axis):
        mapping = scale_and_zero_point(values, axis=axis)
        return np.abs(values - dequantize(quantize(values, *mapping), *mapping))[0].max()

    assert error(None) == pytest.approx(0.02)  # all of it: the step is 20/127
    assert error(0) <= 0.02 / 127 / 2 * 1.001


@pytest.mark.parametrize("values", [[3.0, 5.0], [-5.0, -3.0]])
def test_affine_range_takes_in_zero(values):
    scale, zero_point = scale_and_zero_point(np.array(values, dtype=np.float32), symmetric=False)
    assert scale == pytest.approx(5 / 255)
    assert zero_point == (0 if values[0] > 0 else 255)


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_have_a_scale(symmetric):
    values = np.array([[0, 0], [1, 2]], dtype=np.float32)
    scale, zero_point = scale_and_zero_point(values, symmetric, axis=0)
    assert scale.shape == zero_point.shape == (2, 1)
    assert scale[0] == 1
    assert zero_point[0] == 0
    assert scale_and_zero_point(values[:1], symmetric)[0] == 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_beyond_the_range_is_the_limit(symmetric):
    values = np.array([-1, 4], dtype=np.float32)
    mapping = scale_and_zero_point(values, symmetric)
    limits = np.iinfo(np.int8 if symmetric else np.uint8)
    assert quantize(values * 100, *mapping).tolist() == [limits.min, limits.max]


def off_ties(rng, scale, zero_point, shape):
    """Values a hair's breadth away from no rounding boundary, some beyond the range."""
    q = rng.integers(-150, 150, shape) - zero_point
    return ((q + rng.uniform(-0.4, 0.4, shape)) * scale).astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
@pytest.mark.parametrize(("symmetric", "dtype"), [(True, torch.qint8), (False, torch.quint8)])
def test_equals_torch(symmetric, dtype):
    rng = np.random.default_rng(0)
    mapping = scale_and_zero_point(rng.normal(0.3, 1, (8, 32)).astype(np.float32), symmetric)
    values = off_ties(rng, *mapping, (8, 32))
    scale, zero_point = mapping[0].item(), mapping[1].item()
    expected = torch.quantize_per_tensor(torch.from_numpy(values), scale, zero_point, dtype)
    q = quantize(values, *mapping)
    assert np.array_equal(q, expected.int_repr().numpy())
    np.testing.assert_allclose(dequantize(q, *mapping), expected.dequantize().numpy(), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("symmetric", "dtype"), [(True, torch.qint8), (False, torch.quint8)])
def test_equals_torch_per_channel(axis, symmetric, dtype):
    rng = np.random.default_rng(1)
    wide = rng.normal(0.3, 1, (8, 32)) * rng.uniform(0.01, 10, 8 if axis == 0 else 32).reshape(
        (-1, 1) if axis == 0 else (1, -1)
    )
    mapping = scale_and_zero_point(wide.astype(np.float32), symmetric, axis=axis)
    values = off_ties(rng, *mapping, (8, 32))
    scales, zero_points = (torch.from_numpy(m.ravel()) for m in mapping)
    expected = torch.quantize_per_channel(torch.from_numpy(values), scales, zero_points.long(), axis, dtype)
    q = quantize(values, *mapping)
    assert np.array_equal(q, expected.int_repr().numpy())
    np.testing.assert_allclose(dequantize(q, *mapping), expected.dequantize().numpy(), rtol=1e-6)


def tensors(folder):
    initializers = onnx.load(folder / "model.onnx").graph.initializer
    return {t.name: onnx.numpy_helper.to_array(t) for t in initializers}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_equals_onnx_runtime(models, per_channel, reduce_range):
    """Integers, scales and zero points of a model's weights (int8) and embeddings (uint8)."""
    (models / "int8").mkdir()
    dynamic_int8.quantize(models / "student-ort", models / "int8", per_channel, reduce_range)
    floats, ints = tensors(models / "student-ort"), tensors(models / "int8")
    compared = {np.dtype(np.int8): 0, np.dtype(np.uint8): 0}
    for name in [n.removesuffix("_quantized") for n in ints if n.endswith("_quantized")]:
        q = ints[f"{name}_quantized"]
        # Gemm's weights are transposed on the way.
        values = floats[name] if name in floats else floats[name.removesuffix("_Transposed")].T
        weight = q.dtype == np.int8
        axis = 1 if weight and per_channel else None
        scale, zero_point = scale_and_zero_point(values, weight, weight and reduce_range, axis)
        assert np.array_equal(scale.ravel(), ints[f"{name}_scale"].ravel())
        assert np.array_equal(zero_point.ravel(), ints[f"{name}_zero_point"].ravel())
        assert np.array_equal(quantize(values, scale, zero_point), q)
        compared[q.dtype] += 1
    # Two blocks, of which the first has queries, keys and values in one, and the head.
    assert compared[np.dtype(np.int8)] == 4 + 6 + 2
    assert compared[np.dtype(np.uint8)] >= 2  # words and positions
