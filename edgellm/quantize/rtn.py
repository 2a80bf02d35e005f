"""Round to nearest: each group of weights by itself, at the least squared error found, whatever inputs it will meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgellm.errors import UnsupportedModelError
from edgellm.formats.matrix import BLOCK, F16, F32, I8, INTEGER_BITS, U8, QuantizedMatrix, Scheme, pack_codes
from edgellm.quantize.fit import Fit
from edgellm.quantize.integers import fit_int8, fit_symmetric, fit_with_minimum
from edgellm.quantize.trits import fit_planes, fit_ternary

LARGEST = 65504.0 * 127
"""The largest weight that any scheme can store, its scale being float16; squares of such weights do not overflow."""
ROWS_OF = 1 << 22
"""Weights whose rows are rounded and packed together: each takes some bytes while that is done."""
AT_ONCE = 1 << 16
"""Weights that are fitted together: as many as make NumPy's calls worth their cost and stay in the processor's cache."""


def round_to_nearest(name: str, weights: F32, scheme: Scheme) -> QuantizedMatrix:
    """Quantize float32 [N, K], some rows at a time where no scale is shared by all: little more memory is taken than the result needs.

    name: of the tensor, for the error: UnsupportedModelError if K is no multiple of 32, or a weight is not finite or too large.
    """
    if (cols := weights.shape[1]) % BLOCK:
        raise UnsupportedModelError(f"tensor {name} has {cols} columns; {scheme} needs a multiple of {BLOCK}")
    return by_rows(weights, scheme, lambda part: _rounded(name, part, scheme))


def by_rows(weights: F32, scheme: Scheme, rounded: Callable[[F32], QuantizedMatrix]) -> QuantizedMatrix:
    """What `rounded` makes of float32 [N, K], called for ROWS_OF weights at a time, or for all where the rows share a scale."""
    if scheme.group == "tensor":
        return rounded(weights)
    rows, cols = weights.shape
    codes: U8 | I8 = np.empty((rows, scheme.code_bytes(cols)), np.uint8)
    codes = codes.view(np.int8) if scheme.family == "int8" else codes
    scales = np.empty(scheme.scales_shape(rows, cols), np.float16)
    minimums = np.empty_like(scales) if scheme.has_min else None
    step = max(1, ROWS_OF // cols)
    for block in (slice(start, start + step) for start in range(0, rows, step)):
        part = rounded(weights[block])
        codes[block], scales[block] = part.codes, part.scales
        if minimums is not None:
            minimums[block] = part.minimums
    return QuantizedMatrix(scheme, codes, scales, minimums)


def _rounded(name: str, weights: F32, scheme: Scheme) -> QuantizedMatrix:
    rows, cols = weights.shape
    try:
        if not np.abs(weights).max() <= LARGEST:
            raise OverflowError(f"a weight is not finite, or above {LARGEST}")
        fits = [_fit_all(groups, scheme) for groups in _grouped(weights, scheme)]
    except OverflowError as error:
        raise UnsupportedModelError(
            f"tensor {name} has a weight that is not finite, or too large for the float16 scales of {scheme}"
        ) from error
    codes = np.concatenate([fit.codes.reshape(scheme.planes, rows, -1) for fit in fits], axis=2)
    shape = scheme.scales_shape(rows, cols)
    scales = _by_row([fit.scales for fit in fits], shape)
    minimums = [fit.minimums for fit in fits if fit.minimums is not None]
    return QuantizedMatrix(scheme, pack_codes(scheme, codes), scales, _by_row(minimums, shape) if minimums else None)


def _grouped(weights: F32, scheme: Scheme) -> Iterator[F32]:
    """The weights as [groups, weights of a group]: once, or, where the last group of a row is shorter, these apart from the others."""
    if scheme.group == "tensor":
        yield weights.reshape(1, -1)
        return
    cols = weights.shape[1]
    group = cols if scheme.group == "row" else min(scheme.group, cols)
    whole = cols - cols % group
    yield weights[:, :whole].reshape(-1, group)
    if whole < cols:
        yield weights[:, whole:]


def _fit_all(groups: F32, scheme: Scheme) -> Fit:
    """The fit of [M, G], some groups at a time."""
    step = max(1, AT_ONCE // groups.shape[1])
    fits = [_fit(groups[start : start + step], scheme) for start in range(0, len(groups), step)]
    minimums = [fit.minimums for fit in fits if fit.minimums is not None]
    return Fit(
        np.concatenate([fit.codes for fit in fits], axis=1),
        np.concatenate([fit.scales for fit in fits]),
        np.concatenate(minimums) if minimums else None,
    )


def _fit(groups: F32, scheme: Scheme) -> Fit:
    if scheme.is_trits:
        return fit_ternary(groups) if scheme.planes == 1 else fit_planes(groups, scheme.planes)
    if scheme.family == "int8":
        return fit_int8(groups)
    bits = INTEGER_BITS[scheme.family]
    return fit_with_minimum(groups, bits) if scheme.has_min else fit_symmetric(groups, bits)


def _by_row(parts: list[F16], shape: tuple[int, ...]) -> F16:
    """Scales or minimums of the groups and, maybe, of the shorter ones that end the rows, in the shape of the file."""
    planes = shape[2:]
    return np.concatenate([part.reshape(shape[0], -1, *planes) for part in parts], axis=1)
