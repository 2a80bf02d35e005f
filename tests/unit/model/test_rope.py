"""The rotary tables against arbitrary precision."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from edgellm.model.rope import Rope, cos_sin, inverse_frequencies

HEAD_DIMS = [16, 32, 48, 64, 80, 96, 128, 256]


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("theta", [10000.0, 100000.0, 500000.0])
def test_inverse_frequencies_are_correctly_rounded(theta: float, head_dim: int) -> None:
    """Each to the power -E / 2i is theta between the neighbouring float32: no power function is trusted."""
    for i, frequency in enumerate(inverse_frequencies(Rope(theta), head_dim, 1)):
        below, above = (
            (Fraction(float(frequency)) + Fraction(float(np.nextafter(frequency, side)))) / 2 for side in (np.float32(0), np.float32(2))
        )
        reduced = Fraction(2 * i, head_dim)
        # below < theta^(-n/d) < above  <=>  below^d < theta^-n < above^d
        assert below**reduced.denominator <= Fraction(int(theta)) ** -reduced.numerator <= above**reduced.denominator


@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_tables_are_within_one_rounding(head_dim: int) -> None:
    """Of cos and sin of the float32 angle: float64's own error is far below float32's."""
    cos, sin = cos_sin(Rope(100000.0), head_dim, 8192)
    angles = (np.arange(8192, dtype=np.float32)[:, None] * inverse_frequencies(Rope(100000.0), head_dim, 1)).astype(np.float64)
    assert cos.shape == sin.shape == (8192, head_dim // 2)
    assert cos.dtype == sin.dtype == np.float32
    for table, exact in ((cos, np.cos(angles)), (sin, np.sin(angles))):
        assert (np.abs(table - exact) <= np.spacing(np.abs(table)) * 0.5000001 + 1e-16).all()


def test_far_positions_keep_their_accuracy() -> None:
    cos, sin = cos_sin(Rope(10000.0), 16, 1 << 18)
    positions = np.arange((1 << 18) - 4096, 1 << 18)
    angles = (positions.astype(np.float32)[:, None] * inverse_frequencies(Rope(10000.0), 16, 1)).astype(np.float64)
    assert np.abs(cos[positions] - np.cos(angles)).max() <= 2.0**-24
    assert np.abs(sin[positions] - np.sin(angles)).max() <= 2.0**-24


def test_position_zero_does_not_rotate() -> None:
    cos, sin = cos_sin(Rope(10000.0), 64, 1)
    assert (cos == 1).all()
    assert (sin == 0).all()


def test_the_same_bits_on_every_machine() -> None:
    """A hash of the default model's tables: only operations that IEEE 754 defines exactly are used."""
    digest = hashlib.sha256(b"".join(table.tobytes() for table in cos_sin(Rope(100000.0), 64, 2048))).hexdigest()
    assert digest == "159c3010413066ce1874fcda4b862dcf2915633796037c00f95a3a70fa41c4a1"
