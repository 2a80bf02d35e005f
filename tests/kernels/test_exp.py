"""The kernels' own exp."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.ops import native
from tests.kernels import bounds
from tests.kernels.calls import assert_same_bits, assert_within
from tests.kernels.data import F32, NASTY

LOWEST, HIGHEST = -87.0, 88.0


def sweep() -> F32:
    """Dense over the whole range, denser around 0, and on both sides of each change of the exponent: (n + 1/2) ln 2."""
    ties = (np.arange(-126, 127) + 0.5) * np.log(2)
    around = ties[:, None] + np.arange(-8, 9) * np.spacing(ties.astype(np.float32))[:, None]
    return np.concatenate(
        [np.linspace(LOWEST, HIGHEST, 400_001), np.linspace(-1, 1, 100_001), np.geomspace(1e-45, 1, 500), around.ravel()]
    ).astype(np.float32)  # fmt: skip


def test_accuracy(isa: str) -> None:
    """Within 3 u (`bounds` derives it) of exp in float64 everywhere between the limits, which is at most 3 ulp."""
    x = sweep()
    x = x[(x >= LOWEST) & (x <= HIGHEST)]
    expected = np.exp(x.astype(np.float64))
    assert_within("exp", "exp", expected, native.exp(x, isa), bounds.gamma(bounds.EXP) * expected)


def test_same_bits_as_scalar(isa: str) -> None:
    x = np.concatenate([sweep(), -sweep(), NASTY, np.linspace(-200, 200, 10001, dtype=np.float32)])
    assert_same_bits("exp", {"exp": native.exp(x, "scalar")}, {"exp": native.exp(x, isa)})


@pytest.mark.parametrize(
    ("x", "limit"), [(-87.5, -87), (-1e30, -87), (-np.inf, -87), (np.nan, -87), (88.5, 88), (1e30, 88), (np.inf, 88)], ids=str
)
def test_beyond_its_limits_it_stands_still(isa: str, x: float, limit: float) -> None:
    at, there = native.exp(np.array([x, limit], np.float32), isa)
    assert at == there
    assert np.isfinite(at)
    assert at >= np.finfo(np.float32).tiny


def test_exp_of_zero_is_one(isa: str) -> None:
    assert native.exp(np.array([0.0, -0.0], np.float32), isa).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 33])
def test_every_length(isa: str, length: int) -> None:
    x = np.linspace(-3, 3, length, dtype=np.float32)
    assert_same_bits(
        "exp", {"exp": np.array([native.exp(x[i : i + 1], "scalar")[0] for i in range(length)], np.float32)}, {"exp": native.exp(x, isa)}
    )
