"""The mapping between floats and 8-bit integers: f = S·(q − Z), S = (f_max − f_min)/(q_max − q_min).

As ONNX Runtime's quantizers have it: weights symmetric and signed, activations and embeddings
affine and unsigned.

| scheme    | q           | q, reduced range | Z      | f_min … f_max                    |
|-----------|-------------|------------------|--------|----------------------------------|
| symmetric | −127 … 127  | −64 … 64         | 0      | −max|f| … max|f|                 |
| affine    | 0 … 255     | 0 … 127          | 0 … 255 | min(f, 0) … max(f, 0)           |

The reduced range of about 7 bits is for x86 without VNNI, whose 8-bit dot product adds pairs of
products in 16 bits and saturates there (onnxruntime/quantization/quant_utils.py,
`ONNX_INT_TYPE_REDUCED_RANGE`).
"""

import numpy as np

_SYMMETRIC = {False: (-127, 127), True: (-64, 64)}
_AFFINE = {False: (0, 255), True: (0, 127)}


def scale_and_zero_point(
    values: np.ndarray, symmetric: bool = True, reduce_range: bool = False, axis: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The S and Z of `values`, not empty, finite, less than 1e38 in magnitude.

    One pair for the tensor, of shape (), or if `axis` is given one for each index along it, of a
    shape that broadcasts against `values`. S is float32; Z is int8 if `symmetric`, else uint8.
    0 is always within the range, so that it has an integer of its own. Where all values are 0,
    S is 1 and Z is 0.
    """
    q_min, q_max = (_SYMMETRIC if symmetric else _AFFINE)[reduce_range]
    others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    # Both ends in float64: their difference can be more than float32 holds.
    low = np.minimum(values.min(others, keepdims=axis is not None), 0).astype(np.float64)
    high = np.maximum(values.max(others, keepdims=axis is not None), 0).astype(np.float64)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    scale = (high - low) / (q_max - q_min)
    flat = scale < np.finfo(np.float32).tiny
    scale = np.where(flat, 1.0, scale)
    zero_point = np.where(flat | symmetric, 0.0, np.round(q_min - low / scale))
    return scale.astype(np.float32), zero_point.astype(np.int8 if symmetric else np.uint8)


def quantize(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """q = round(f/S) + Z, half to even, in the type of `zero_point`; beyond its limits, the limit.

    For values in the range that S and Z come from, f is within S/2 of what comes back.
    """
    limits = np.iinfo(zero_point.dtype)
    q = np.round(values / scale) + zero_point
    return np.clip(q, limits.min, limits.max).astype(zero_point.dtype)


def dequantize(q: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """f = S·(q − Z), float32."""
    return (q.astype(np.float32) - zero_point) * scale
