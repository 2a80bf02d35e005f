"""Groups of weights as planes of trits: the scales of least squared error.

Sorted by magnitude, the weights that share a level lie side by side, and running sums give each level's share of the squared error
without looking at single weights again. Here a group is a column, so that NumPy handles many groups at once.

Shapes: M groups of G weights, P planes, H = (3^P - 1) / 2 levels above zero.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import F32, I8
from edgellm.quantize.fit import Fit, as_stored

F64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

PEAKS = (1.0, 1.3)
"""Where the weight of largest magnitude may lie at first, in units of the outermost level."""
ROUNDS = 8


def fit_ternary(w: F32) -> Fit:
    """w [M, G] = scale * trit, with the least squared error that any scale gives (before it is rounded to float16).

    If the k weights of largest magnitude are not zero, their mean magnitude S_k / k is the best scale and takes S_k^2 / k off sum w^2; so
    the best of the G values of k is the optimum. BitNet's scale, the mean magnitude of all weights (absmean; Ma et al., 2024), is meant for
    training: of other weights it leaves about 1.4 times this error, and of weights that are ternary already it would lose some.
    """
    _, running = _sorted(w)
    kept = np.arange(1, w.shape[1] + 1)[:, None]
    best = (running[1:] ** 2 / kept).argmax(axis=0) + 1
    scales = as_stored((running[best, np.arange(len(w))] / best).astype(np.float32))[:, None]
    trits = np.where(np.abs(w) > scales.astype(np.float32) / 2, np.sign(w), np.float32(0)).astype(np.int8)
    return Fit(trits[None] + np.int8(1), scales)


def fit_planes(w: F32, planes: int) -> Fit:
    """w [M, G] = sum_p scale_p * trit_p, by turns: each weight to its nearest level, each scale to what is best for these levels.

    At first the scales are powers of 3 times the smallest, which makes the levels evenly spaced; then they are free of each other.
    """
    magnitudes, running = _sorted(w)
    outermost = (3**planes - 1) / 2
    evenly = 3.0 ** np.arange(planes - 1, -1, -1)[:, None] / outermost
    best, best_gain = np.zeros((planes, len(w))), np.zeros(len(w))
    for peak in PEAKS:
        scales, gain = magnitudes[0] / peak * evenly, best_gain
        for _ in range(ROUNDS):
            scales, gain = _refitted(magnitudes, running, scales)
        best, best_gain = np.where(gain > best_gain, scales, best), np.maximum(gain, best_gain)
    stored = as_stored(best.astype(np.float32))
    return Fit(_nearest_trits(w, stored.astype(np.float64)) + np.int8(1), np.ascontiguousarray(stored.T))


def _sorted(w: F32) -> tuple[F32, F64]:
    """The magnitudes [G, M], largest first, and the sums of the first 0, 1, .. G of them, [G + 1, M]."""
    magnitudes = -np.sort(-np.abs(w), axis=1)
    running = np.zeros((w.shape[0], w.shape[1] + 1))
    np.cumsum(magnitudes.astype(np.float64), axis=1, out=running[:, 1:])
    return np.ascontiguousarray(magnitudes.T), np.ascontiguousarray(running.T)


def _upper_levels(scales: F64) -> tuple[F64, F64]:
    """The levels above zero, largest first, [H, M], and their trits [P, H, M]."""
    combinations = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=len(scales)))).T  # [P, 3^P]
    levels = _dot(combinations[:, :, None], scales)
    upper = np.argsort(-levels, axis=0, kind="stable")[: levels.shape[0] // 2]
    return np.take_along_axis(levels, upper, axis=0), combinations[:, upper]


def _dot(trits: F64, scales: F64) -> F64:
    """sum_p scale_p trit_p: [H, M]."""
    total: F64 = sum((trits[p] * scales[p] for p in range(1, len(scales))), trits[0] * scales[0])
    return total


def _borders(levels: F64) -> F64:
    """Halfway from each level down to the next, the last one down to zero: [H, M]."""
    borders = levels / 2
    borders[:-1] += borders[1:]
    return borders


def _shares(magnitudes: F32, running: F64, levels: F64) -> tuple[F64, F64]:
    """How many magnitudes are nearest to each level, and their sum: [H, M] each."""
    above = _counts_above(magnitudes, _borders(levels))
    return np.diff(above, axis=0, prepend=0).astype(np.float64), np.diff(running[above, np.arange(above.shape[1])], axis=0, prepend=0)


def _counts_above(magnitudes: F32, borders: F64) -> Indices:
    """How many of each group's magnitudes lie above each border: [H, M], by bisection for all of them at once."""
    group, groups = magnitudes.shape
    at = np.broadcast_to(np.arange(groups), borders.shape)  # into the flat array: that many magnitudes are known to lie above
    flat = np.append(magnitudes.ravel(), np.full(((1 << group.bit_length()) - 1 - group) * groups, np.float32(-1)))
    for bit in reversed(range(group.bit_length())):
        step = groups << bit
        at = at + step * (flat[at + (step - groups)] > borders)
    above: Indices = at // groups
    return above


def _refitted(magnitudes: F32, running: F64, scales: F64) -> tuple[F64, F64]:
    """Weights at their nearest levels, then each scale in turn at its least squared error; and what that takes off sum w^2, [M]."""
    levels, trits = _upper_levels(scales)
    counts, totals = _shares(magnitudes, running, levels)
    fitted = scales.copy()
    for p in range(len(scales)):
        others = _dot(trits, fitted) - trits[p] * fitted[p]
        weight = (counts * np.abs(trits[p])).sum(axis=0)
        np.divide((trits[p] * (totals - counts * others)).sum(axis=0), weight, out=fitted[p], where=weight > 0)
    levels = _dot(trits, fitted)
    return fitted, (levels * (2 * totals - counts * levels)).sum(axis=0)


def _nearest_trits(w: F32, scales: F64) -> I8:
    """The trits [P, M, G] whose level is nearest to each weight: those of the largest level, and from border to border what changes."""
    levels, upper = _upper_levels(scales)
    descending = upper.astype(np.int8)[:, :, :, None]  # [P, H, M, 1]
    changes = np.diff(descending, axis=1, append=np.int8(0))
    magnitudes = np.abs(w)
    trits: I8 = np.repeat(descending[:, 0], w.shape[1], axis=2)
    for i, border in enumerate(_borders(levels).astype(np.float32)):
        trits += (magnitudes <= border[:, None]) * changes[:, i]
    return trits * np.sign(w).astype(np.int8)
