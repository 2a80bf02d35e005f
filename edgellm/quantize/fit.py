"""What a fit of groups of weights finds. Shapes: M groups of G weights each, P planes (1 for integers)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgellm.formats.matrix import F16, F32, I8

Column = F32
"""One number for each group: [M, 1]."""

SMALLEST = 1e-30
"""Weights below it are nothing: float16 scales end at 6e-8, and what is divided by such a weight would overflow."""


@dataclass(frozen=True)
class Fit:
    """Codes as `formats.matrix.unpack_codes` gives them, int8 [P, M, G], with float16 scales [M, P] and, maybe, minimums [M, 1]."""

    codes: I8
    scales: F16
    minimums: F16 | None = None


def as_stored(values: F32) -> F16:
    """Rounded to float16; OverflowError where that has no room for them."""
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    if not np.isfinite(stored).all():
        raise OverflowError(f"{np.abs(values).max()} is too large for float16")
    return stored


def sums(values: F32) -> Column:
    """Over each group. NumPy sums pairwise, which gives the same bits on every instruction set."""
    total: Column = values.sum(axis=1, keepdims=True)
    return total
