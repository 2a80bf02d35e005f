"""The rotary tables against arbitrary precision."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from edgellm.model.rope import LinearScaling, Llama3Scaling, LongScaling, Rope, cos_sin, inverse_frequencies, usual_attention_factor

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


FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
LONG = LongScaling(tuple(1 + factor / 16 for factor in FACTORS), FACTORS, 64, usual_attention_factor(4.0, 64))


def test_a_linear_scale_divides_positions() -> None:
    """By a power of two, exactly: position 8 t is where position t was."""
    plain, scaled = cos_sin(Rope(1e4), 16, 64), cos_sin(Rope(1e4, LinearScaling(8.0)), 16, 512)
    for table, stretched in zip(plain, scaled, strict=True):
        np.testing.assert_array_equal(stretched[::8], table)


def test_llama3_leaves_short_waves_alone_and_slows_long_ones_down() -> None:
    """The three ranges of Llama 3.1's formula, in float64; between them it goes from the one to the other."""
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 1024)
    plain = inverse_frequencies(Rope(1e4), 64, 1).astype(np.float64)
    found = inverse_frequencies(Rope(1e4, scaling), 64, 1).astype(np.float64)
    waves = 2 * np.pi / plain
    short, long = waves < 256, waves > 1024
    assert short.any()
    assert long.any()
    assert (~short & ~long).sum() >= 2
    kept = (1024 / waves - 1) / 3
    expected = np.where(short, plain, np.where(long, plain / 8, (1 - kept) * plain / 8 + kept * plain))
    np.testing.assert_allclose(found, expected, rtol=2.0**-22)
    np.testing.assert_array_equal(found[short], plain[short])


@pytest.mark.parametrize(("context", "factors"), [(64, LONG.short_factor), (65, LONG.long_factor), (4096, LONG.long_factor)])
def test_the_context_chooses_a_long_ropes_factors(context: int, factors: tuple[float, ...]) -> None:
    found = inverse_frequencies(Rope(1e4, LONG), 16, context)
    np.testing.assert_allclose(found, inverse_frequencies(Rope(1e4), 16, 1) / np.array(factors), rtol=2.0**-22)


def test_a_long_ropes_tables_are_longer_by_the_attention_factor() -> None:
    """sqrt(1 + log 4 / log 64) = sqrt(4 / 3), at every position; and there may be room for more positions than the context has."""
    assert LONG.attention_factor == pytest.approx((4 / 3) ** 0.5, rel=1e-15)
    assert usual_attention_factor(1.0, 64) == 1
    cos, sin = cos_sin(Rope(1e4, LONG), 16, 60, positions=64)
    assert cos.shape == (64, 8)
    np.testing.assert_allclose(np.hypot(cos, sin), (4 / 3) ** 0.5, rtol=2.0**-22)


def test_scaled_tables_are_the_same_bits_on_every_machine() -> None:
    ropes = [Rope(1e4, LinearScaling(8.0)), Rope(5e5, Llama3Scaling(32.0, 1.0, 4.0, 8192)), Rope(1e4, LONG)]
    digest = hashlib.sha256(b"".join(table.tobytes() for rope in ropes for table in cos_sin(rope, 16, 512))).hexdigest()
    assert digest == "92d1606762cc83e020fb819c7b1a92ad7bc78057ff4f609486ff1edd332d12dc"
