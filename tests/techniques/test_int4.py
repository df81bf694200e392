import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.techniques import int4

ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([16, 64, 80])),
    elements=st.floats(-4, 4, width=16),
)


def test_what_is_on_a_grid_comes_back():
    """A row of two blocks, with the steps 0.25 and 2; the second is as wide as its grid."""
    steps = np.concatenate([np.arange(64) % 13 - 6, np.arange(64) % 16 - 8])[None]
    values = (steps * np.repeat([0.25, 2.0], 64)).astype(np.float32)
    q, scales = int4.quantize(values)
    np.testing.assert_array_equal(int4.dequantize(q, scales), values)
    assert np.abs(scales).tolist() == [[0.25] * (64 // int4.BLOCK) + [2.0] * (64 // int4.BLOCK)]


@given(ROWS)
def test_again_it_is_the_same(values):
    """An embedding that was trained on its grid is on that grid after the export."""
    once = int4.dequantize(*int4.quantize(values))
    np.testing.assert_array_equal(int4.dequantize(*int4.quantize(once)), once)


@given(ROWS)
def test_no_worse_than_by_the_widest_entry(values):
    """Rounded to nearest, with each block's widest entry at the end of the grid."""
    q, scales = int4.quantize(values)
    found = int4.dequantize(q, scales)
    for row, ours in zip(values, found, strict=True):
        for start in range(0, len(row), int4.BLOCK):
            block = row[start : start + int4.BLOCK]
            step = np.float32(np.float16(block[np.abs(block).argmax()] / -8))
            plain = np.clip(np.round(block / (step or 1)), -8, 7) * step
            error = ((ours[start : start + int4.BLOCK] - block) ** 2).sum()
            assert error <= ((plain - block) ** 2).sum() * 1.001 + 1e-9


def test_clipping_lowers_the_error():
    values = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    error = np.sqrt(np.mean((int4.dequantize(*int4.quantize(values)) - values) ** 2))
    blocks = values.reshape(200, -1, int4.BLOCK)
    step = np.abs(blocks).max(-1, keepdims=True) / 7
    assert error < 0.92 * np.sqrt(np.mean((np.round(blocks / step) * step - blocks) ** 2))


def test_two_to_a_byte():
    assert int4.packed(np.array([[1, 2, 15, 0]], np.uint8)).tolist() == [[0x21, 0x0F]]
