"""Inputs for kernels: random, and the extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import BLOCK, INTEGER_BITS, QuantizedMatrix, Scheme, pack_codes

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
Rng = np.random.Generator

TINY = (1e-45, -1e-45, 1.17e-38, -1.17e-38, 1e-38, 1e-30)
HUGE = (3.4e38, -3.4e38, np.inf, -np.inf, np.nan)
NASTY = np.array([0.0, -0.0, 1.0, -1.0, 6e-8, 65504.0, 65520.0, *TINY, *HUGE], np.float32)


SCHEMES = tuple(
    Scheme.parse(name)
    for name in (
        *("int8-g32", "int8-row", "int4-g32", "int4-min-g32", "int4-min-g96", "int3-g64", "int3-min-g32", "int2-g64", "int2-min-g128"),
        *("ternary-g32", "ternary-g64", "ternary-row", "ternary-tensor", "tritplanes2-g64", "tritplanes3-g128"),
    )
)
"""Every family, with groups of one block, of several, of a row, and with a last group that is shorter."""


def quantized(
    scheme: Scheme, codes: npt.NDArray[Any], scales: npt.NDArray[Any], minimums: npt.NDArray[Any] | None = None
) -> QuantizedMatrix:
    """A matrix from integer codes [P, N, K] and, where the scheme has them, minimums [N, J]."""
    stored = None if minimums is None or not scheme.has_min else minimums.astype(np.float16)
    return QuantizedMatrix(scheme, pack_codes(scheme, codes), scales.astype(np.float16), stored)


def code_range(scheme: Scheme) -> tuple[int, int]:
    """The smallest and the largest code."""
    if scheme.is_trits:
        return 0, 2
    return (-128, 127) if scheme.family == "int8" else (0, (1 << INTEGER_BITS[scheme.family]) - 1)


def random_matrix(rng: Rng, scheme: Scheme, rows: int, cols: int, size: float = 0.02) -> QuantizedMatrix:
    """Every code, scales of both signs (GGUF's Q4_0 has negative ones)."""
    low, high = code_range(scheme)
    codes, shape = rng.integers(low, high + 1, (scheme.planes, rows, cols)), scheme.scales_shape(rows, cols)
    return quantized(scheme, codes, rng.normal(0, size, shape), rng.normal(0, size, shape))


def random_activation(rng: Rng, length: int, cols: int, per_token: bool = False) -> tuple[I8, F32]:
    """Codes int8 [L, K], -127..127, and positive scales [L, B], or [L, 1] per token."""
    codes = rng.integers(-127, 128, (length, cols)).astype(np.int8)
    return codes, rng.uniform(1e-4, 0.1, (length, 1 if per_token else cols // BLOCK)).astype(np.float32)


def normal(rng: Rng, *shape: int, size: float = 1.0) -> F32:
    """float32, normally distributed."""
    return (rng.standard_normal(shape) * size).astype(np.float32)


def sprinkled(rng: Rng, *shape: int) -> F32:
    """Normal numbers with every nasty one among them."""
    x = normal(rng, *shape)
    places = rng.choice(x.size, min(x.size, max(len(NASTY), x.size // 8)), replace=False)
    x.reshape(-1)[places] = np.resize(NASTY, len(places))
    return x
