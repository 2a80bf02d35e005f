"""Round to nearest: each group of 32 weights gets the scale that takes its largest to 127."""

from __future__ import annotations

import numpy as np

from edgellm.errors import UnsupportedModelError
from edgellm.formats.matrix import BLOCK, F32, INT8, QuantizedMatrix

LARGEST_CODE = 127


def quantize_int8(name: str, weights: F32) -> QuantizedMatrix:
    """float32 [N, K] -> int8-g32. The scale is max|w| / 127 rounded to float16; codes are w / scale, rounded half to even.

    name: of the tensor, for the error: UnsupportedModelError if K is no multiple of 32, or a weight is not finite or too large for a scale.
    """
    rows, cols = weights.shape
    if cols % BLOCK:
        raise UnsupportedModelError(f"tensor {name} has {cols} columns; {INT8} needs a multiple of {BLOCK}")
    groups = weights.reshape(rows, cols // BLOCK, BLOCK)
    largest = np.maximum(groups.max(axis=-1), -groups.min(axis=-1))
    with np.errstate(over="ignore"):  # what overflows is refused below
        scales = (largest / np.float32(LARGEST_CODE)).astype(np.float16)
    if not np.isfinite(scales).all():
        raise UnsupportedModelError(f"tensor {name} has a weight that is not finite, or above {INT8}'s limit of 65504 * {LARGEST_CODE}")
    divisors = np.where(scales == 0, np.float32(1), scales.astype(np.float32))  # a scale is 0 where all weights are far below 1
    codes = groups / divisors[:, :, None]
    np.clip(np.rint(codes, out=codes), -LARGEST_CODE, LARGEST_CODE, out=codes)
    return QuantizedMatrix(INT8, codes.astype(np.int8).reshape(rows, cols), scales)
