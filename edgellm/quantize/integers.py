"""Groups of weights as integer codes: the scales (and minimums) of the least squared error that a small search finds.

Given codes, a least-squares fit is best; given a fit, the nearest codes are. A search takes these two steps in turn, neither of which
makes the error larger. Where it ends depends on where it starts, so it starts from several places.
"""

from __future__ import annotations

import numpy as np

from edgellm.formats.matrix import F32
from edgellm.quantize.fit import SMALLEST, Column, Fit, as_stored, sums

LARGEST_INT8 = 127
PEAKS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
"""Where the weight of largest magnitude may lie, in units of the outermost level: above 1 it is cut off, for the sake of the others."""
PEAK_ROUNDS = 2
RANGES = (1.0, 0.85, 0.7)
"""What part of the range of the weights the codes may span at first."""
RANGE_ROUNDS = 4


def fit_int8(w: F32) -> Fit:
    """w [M, G] = scale * code: the scale is max|w| / 127. With so many levels a search would gain next to nothing."""
    scales = as_stored(np.abs(w).max(axis=1, keepdims=True) / np.float32(LARGEST_INT8))
    return Fit(_nearest(w, scales.astype(np.float32), -LARGEST_INT8, LARGEST_INT8).astype(np.int8)[None], scales)


def fit_symmetric(w: F32, bits: int) -> Fit:
    """w [M, G] = scale * (code - 2^(bits-1)).

    There is a level more below zero than above it, so the weight of largest magnitude is tried at either end: a scale may be negative.
    """
    zero = 1 << bits - 1
    high, low = w.max(axis=1, keepdims=True), w.min(axis=1, keepdims=True)
    extreme = np.where(high > -low, high, low)
    extreme[np.abs(extreme) < SMALLEST] = 0
    best, best_gain = np.zeros_like(extreme), np.zeros_like(extreme)
    for peak in (sign * zero * place for place in PEAKS for sign in (-1, 1)):
        scale, gain = _fitted_scale(w, _nearest(w, extreme / np.float32(peak), -zero, zero - 1))
        best, best_gain = np.where(gain > best_gain, scale, best), np.maximum(gain, best_gain)
    for _ in range(PEAK_ROUNDS):
        best, _ = _fitted_scale(w, _nearest(w, best, -zero, zero - 1))
    scales = as_stored(best)
    codes = _nearest(w, scales.astype(np.float32), -zero, zero - 1) + np.float32(zero)
    return Fit(codes.astype(np.int8)[None], scales)


def fit_with_minimum(w: F32, bits: int) -> Fit:
    """w [M, G] = scale * code + minimum."""
    top = (1 << bits) - 1
    low, high = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    best, best_gain = (np.zeros_like(low), sums(w) / np.float32(w.shape[1])), np.zeros_like(low)
    for part in RANGES:
        scale = (high - low) * np.float32(part / top)
        minimum = (high + low - scale * np.float32(top)) / 2
        gain = best_gain
        for _ in range(RANGE_ROUNDS):
            scale, minimum, gain = _fitted_line(w, _nearest(w - minimum, scale, 0, top))
        is_better = gain > best_gain
        best = np.where(is_better, scale, best[0]), np.where(is_better, minimum, best[1])
        best_gain = np.maximum(gain, best_gain)
    scales, minimums = as_stored(best[0]), as_stored(best[1])
    codes = _nearest(w - minimums.astype(np.float32), scales.astype(np.float32), 0, top)
    return Fit(codes.astype(np.int8)[None], scales, minimums)


def _nearest(w: F32, scale: Column, lowest: int, highest: int) -> F32:
    """The allowed integers nearest to w / scale, ties to even; 0 where the scale is."""
    divisor = scale.copy()
    divisor[scale == 0] = np.inf
    levels = w / divisor
    return np.clip(np.rint(levels, out=levels), lowest, highest, out=levels)


def _fitted_scale(w: F32, levels: F32) -> tuple[Column, Column]:
    """The scale of least squared error for these levels, and what it takes off sum w^2."""
    product, square = sums(w * levels), sums(levels * levels)
    scale = _quotient(product, square)
    return scale, scale * product


def _fitted_line(w: F32, codes: F32) -> tuple[Column, Column, Column]:
    """The scale and minimum of least squared error for these codes, and what they take off the squared distance from the mean."""
    count = np.float32(w.shape[1])
    mean_w, mean_code = sums(w) / count, sums(codes) / count
    spread = codes - mean_code
    product, square = sums(w * spread), sums(spread * spread)
    scale = _quotient(product, square)
    return scale, mean_w - scale * mean_code, scale * product


def _quotient(product: Column, square: Column) -> Column:
    """product / square; 0 where the square is, which makes the product 0 too."""
    return np.divide(product, square, out=np.zeros_like(product), where=square > 0)
