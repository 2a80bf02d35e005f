"""Rotary position tables, the same bits on every machine: only IEEE basic operations, no platform's pow, cos or sin."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

MAX_POSITIONS = 1 << 20  # the argument reduction below is exact for angles up to here; theta >= 1 keeps angles below positions
_BLOCK = 256  # positions at a time: the float64 intermediates stay in the cache

# pi/2 in three parts of 33 bits, so that n * part is exact for n < 2^20 (Cody and Waite, 1980).
_HALF_PI = tuple(float.fromhex(part) for part in ("0x1.921fb544p+0", "0x1.0b4611a6p-34", "0x1.3198a2e037073p-69"))
# Taylor coefficients: on |r| <= pi/4 their truncation is below 1e-16.
_SIN = tuple(float.fromhex(c) for c in ("-0x1.5555555555555p-3", "0x1.1111111111111p-7", "-0x1.a01a01a01a01ap-13", "0x1.71de3a556c734p-19",
                                        "-0x1.ae64567f544e4p-26", "0x1.6124613a86d09p-33", "-0x1.ae7f3e733b81fp-41"))  # fmt: skip
_COS = tuple(float.fromhex(c) for c in ("-0x1.0000000000000p-1", "0x1.5555555555555p-5", "-0x1.6c16c16c16c17p-10", "0x1.a01a01a01a01ap-16",
                                        "-0x1.27e4fb7789f5cp-22", "0x1.1eed8eff8d898p-29", "-0x1.93974a8c07c9dp-37",
                                        "0x1.ae7f3e733b81fp-45"))  # fmt: skip


@dataclass(frozen=True)
class Rope:
    """How positions turn the halves of a head: by position * theta^(-2i / E). theta >= 1."""

    theta: float


def inverse_frequencies(theta: float, head_dim: int) -> F32:
    """theta^(-2i / E), i < E/2, rounded to float32: exact decimal arithmetic, so no platform's pow is involved."""
    with localcontext() as context:
        context.prec = 40
        base = Decimal(theta)
        return np.array([float(1 / base ** (Decimal(2 * i) / head_dim)) for i in range(head_dim // 2)], np.float32)


def cos_sin(rope: Rope, head_dim: int, context: int) -> tuple[F32, F32]:
    """cos and sin, float32 [context, E/2], of position * inverse frequency, that product rounded to float32 as
    Hugging Face transformers rounds it. context <= MAX_POSITIONS."""
    frequencies = inverse_frequencies(rope.theta, head_dim)
    cos, sin = np.empty((2, context, head_dim // 2), np.float32)
    for start in range(0, context, _BLOCK):
        positions = np.arange(start, min(start + _BLOCK, context), dtype=np.float32)
        angles = (positions[:, None] * frequencies).astype(np.float64)
        cos[start : start + _BLOCK], sin[start : start + _BLOCK] = _cos_sin(angles)
    return cos, sin


def _cos_sin(angles: F64) -> tuple[F64, F64]:
    """cos and sin of angles in 0..2^20, float64, within an ulp or so."""
    turns = np.rint(angles * float.fromhex("0x1.45f306dc9c883p-1"))  # 2 / pi
    r = angles
    for part in _HALF_PI:
        r = r - turns * part
    square = r * r
    sin = r + r * square * _horner(_SIN, square)
    cos = 1 + square * _horner(_COS, square)
    quadrant = turns.astype(np.int64) & 3
    swap, negative_sin, negative_cos = quadrant & 1 == 1, quadrant >= 2, (quadrant == 1) | (quadrant == 2)
    sin, cos = np.where(swap, cos, sin), np.where(swap, sin, cos)
    return np.where(negative_cos, -cos, cos), np.where(negative_sin, -sin, sin)


def _horner(coefficients: tuple[float, ...], x: F64) -> F64:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
