"""The mapping between floats and 4-bit integers: f = S·(q − 8), q in 0 … 15, an S for each block of a row.

As ONNX Runtime's `GatherBlockQuantized` has it: two integers to a byte, the first in the low bits.
"""

import numpy as np

BLOCK = 32  # entries of a row; with its scale in 16 bits, an entry takes 4.5
ZERO = 8
# Where on its grid a block's widest entry may fall, of −8 … 7; beyond, it is clipped, for finer steps.
WIDEST = np.concatenate([np.arange(-12, -4.5, 0.5), np.arange(5, 12.5, 0.5)]).astype(np.float32)


def quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of `values`, shape (rows, width), and the scale of each block, (rows, blocks), float16.

    Of the scales by which a block's widest entry falls on one of `WIDEST`, the one with the least squared
    error is taken. What was on such a grid comes back as it was.
    """
    rows, width = values.shape
    blocks = np.pad(values, ((0, 0), (0, -width % BLOCK))).reshape(rows, -1, BLOCK)
    at = np.abs(blocks).argmax(axis=-1, keepdims=True)
    widest = np.take_along_axis(blocks, at, axis=-1)
    best = np.full(widest.shape, np.inf, np.float32)
    scales, q = np.zeros(widest.shape, np.float16), np.full(blocks.shape, ZERO, np.uint8)
    for steps in WIDEST:
        scale = (widest / steps).astype(np.float16)
        divisor = np.where(scale == 0, 1, scale).astype(np.float32)
        candidate = np.clip(np.round(blocks / divisor), -ZERO, ZERO - 1)
        error = ((candidate * scale - blocks) ** 2).sum(axis=-1, keepdims=True)
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
        q = np.where(better, (candidate + ZERO).astype(np.uint8), q)
    return q.reshape(rows, -1)[:, :width], scales[..., 0]


def dequantize(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """f = S·(q − 8), float32, shape (rows, width)."""
    steps = np.repeat(scales.astype(np.float32), BLOCK, axis=1)
    return (q.astype(np.float32) - ZERO) * steps[:, : q.shape[1]]


def packed(q: np.ndarray) -> np.ndarray:
    """Two integers to a byte, the first in the low bits; of an even width."""
    return q[:, ::2] | q[:, 1::2] << 4
