"""Inputs for kernels: random, and the extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import QuantizedMatrix, Scheme, pack_nibbles
from edgellm.ops.interface import GROUP

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
Rng = np.random.Generator

TINY = (1e-45, -1e-45, 1.17e-38, -1.17e-38, 1e-38, 1e-30)
HUGE = (3.4e38, -3.4e38, np.inf, -np.inf, np.nan)
NASTY = np.array([0.0, -0.0, 1.0, -1.0, 6e-8, 65504.0, 65520.0, *TINY, *HUGE], np.float32)


def quantized(
    scheme: Scheme, codes: npt.NDArray[Any], scales: npt.NDArray[Any], minimums: npt.NDArray[Any] | None = None
) -> QuantizedMatrix:
    """A matrix from integer codes [N, K] and, where the scheme has them, minimums [N, J]."""
    stored = codes.astype(np.int8) if scheme.bits == 8 else pack_nibbles(codes)
    return QuantizedMatrix(
        scheme, stored, scales.astype(np.float16), None if minimums is None or not scheme.has_min else minimums.astype(np.float16)
    )


def random_matrix(rng: Rng, scheme: Scheme, rows: int, cols: int, size: float = 0.02) -> QuantizedMatrix:
    """Every code, scales of both signs (GGUF's Q4_0 has negative ones)."""
    low, high = (-128, 128) if scheme.bits == 8 else (0, 16)
    groups = (rows, cols // GROUP)
    return quantized(scheme, rng.integers(low, high, (rows, cols)), rng.normal(0, size, groups), rng.normal(0, size, groups))


def random_activation(rng: Rng, length: int, cols: int) -> tuple[I8, F32]:
    """Codes int8 [L, K], -127..127, and positive scales [L, J]."""
    codes = rng.integers(-127, 128, (length, cols)).astype(np.int8)
    return codes, rng.uniform(1e-4, 0.1, (length, cols // GROUP)).astype(np.float32)


def normal(rng: Rng, *shape: int, size: float = 1.0) -> F32:
    """float32, normally distributed."""
    return (rng.standard_normal(shape) * size).astype(np.float32)


def sprinkled(rng: Rng, *shape: int) -> F32:
    """Normal numbers with every nasty one among them."""
    x = normal(rng, *shape)
    places = rng.choice(x.size, min(x.size, max(len(NASTY), x.size // 8)), replace=False)
    x.reshape(-1)[places] = np.resize(NASTY, len(places))
    return x
