"""Rotary position tables, the same bits on every machine: only IEEE basic operations, no platform's pow, cos or sin."""

from __future__ import annotations

from collections.abc import Sequence
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


_PI = Decimal("3.141592653589793238462643383279502884197169")
_DIGITS = 40  # of the decimal arithmetic, far beyond what float32 keeps


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (>= 1), which is all frequencies divided by it."""

    factor: float

    def scaled(self, frequencies: Sequence[Decimal], context: int) -> list[Decimal]:  # noqa: ARG002
        """The frequencies for an engine of that context."""
        return [frequency / Decimal(self.factor) for frequency in frequencies]


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's: waves longer than original_max_position_embeddings / low_freq_factor are slowed down by `factor` (>= 1), those shorter
    than original_max_position_embeddings / high_freq_factor are left alone, and those between are in between.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def scaled(self, frequencies: Sequence[Decimal], context: int) -> list[Decimal]:  # noqa: ARG002
        """The frequencies for an engine of that context."""
        factor, low, high = map(Decimal, (self.factor, self.low_freq_factor, self.high_freq_factor))
        scaled = []
        for frequency in frequencies:
            turns = self.original_max_position_embeddings * frequency / (2 * _PI)
            kept = min(max((turns - low) / (high - low), Decimal(0)), Decimal(1))
            scaled.append((1 - kept) * frequency / factor + kept * frequency)
        return scaled


@dataclass(frozen=True)
class LongScaling:
    """LongRoPE (Ding et al., 2024): each frequency divided by a factor of its own (>= 1), and cos and sin multiplied by attention_factor.

    An engine whose context is longer than original_max_position_embeddings takes the long factors from its first token on, any other the
    short ones. transformers chooses anew at every call by the tokens so far, so that a text that grows beyond the original length is from
    then on rotated in another way than the keys that it has cached. Load with a context up to the original length for the short factors.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float

    def scaled(self, frequencies: Sequence[Decimal], context: int) -> list[Decimal]:
        """The frequencies for an engine of that context."""
        factors = self.long_factor if context > self.original_max_position_embeddings else self.short_factor
        return [frequency / Decimal(factor) for frequency, factor in zip(frequencies, factors, strict=True)]


def usual_attention_factor(factor: float, original_max_position_embeddings: int) -> float:
    """What LongRoPE multiplies cos and sin with where a config does not say, for contexts longer by `factor`."""
    if factor <= 1:
        return 1.0
    with localcontext() as context:
        context.prec = _DIGITS
        return float((1 + Decimal(factor).ln() / Decimal(original_max_position_embeddings).ln()).sqrt())


@dataclass(frozen=True)
class Rope:
    """How positions turn the halves of a head: by position * theta^(-2i / E), scaled or not. theta >= 1."""

    theta: float
    scaling: LinearScaling | Llama3Scaling | LongScaling | None = None

    @property
    def attention_factor(self) -> float:
        """What cos and sin are multiplied with."""
        return self.scaling.attention_factor if isinstance(self.scaling, LongScaling) else 1.0


def inverse_frequencies(rope: Rope, head_dim: int, context: int) -> F32:
    """The frequencies, float32 [E/2], each rounded once: exact decimal arithmetic, so no platform's pow is involved."""
    with localcontext() as arithmetic:
        arithmetic.prec = _DIGITS
        base = Decimal(rope.theta)
        frequencies = [1 / base ** (Decimal(2 * i) / head_dim) for i in range(head_dim // 2)]
        if rope.scaling is not None:
            frequencies = rope.scaling.scaled(frequencies, context)
        return np.array([float(frequency) for frequency in frequencies], np.float32)


def cos_sin(rope: Rope, head_dim: int, context: int, positions: int | None = None) -> tuple[F32, F32]:
    """cos and sin, float32 [positions, E/2], of position * inverse frequency, that product rounded to float32 as Hugging Face transformers
    rounds it, for an engine of that context. positions: default context, up to MAX_POSITIONS.
    """
    frequencies = inverse_frequencies(rope, head_dim, context)
    rows = context if positions is None else positions
    cos, sin = np.empty((2, rows, head_dim // 2), np.float32)
    for start in range(0, rows, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, rows), dtype=np.float32)
        angles = (block[:, None] * frequencies).astype(np.float64)
        exact_cos, exact_sin = _cos_sin(angles)
        cos[start : start + _BLOCK], sin[start : start + _BLOCK] = exact_cos * rope.attention_factor, exact_sin * rope.attention_factor
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
