"""Packing and its inverse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import BLOCK, INT4_MIN, INT8, QuantizedMatrix, Scheme
from edgellm.ops import native
from edgellm.ops.interface import TILE, PackedMatrix, packed_bytes
from tests.kernels.data import SCHEMES, random_matrix
from tests.kernels.space import Space


def packed(matrix: QuantizedMatrix, space: Space) -> PackedMatrix:
    codes, scales = packed_bytes(matrix.scheme, *matrix.shape)
    return native.pack(matrix, space.empty((codes,), np.uint8), space.empty((scales // 2,), np.float16))


def assert_round_trip(matrix: QuantizedMatrix, shift: int = 0) -> None:
    space = Space(shift)
    again = packed(matrix, space).unpack()
    space.check()
    assert again.scheme == matrix.scheme
    for part in ("codes", "scales", "minimums"):
        before, after = getattr(matrix, part), getattr(again, part)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(after.view(np.uint8), before.view(np.uint8), err_msg=f"{part} of {matrix.shape}")


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_unpacking_gives_the_matrix_again(scheme: Scheme) -> None:
    rng = np.random.default_rng(0)
    for rows in [*range(1, 130, 2), 16, 32, 576]:
        assert_round_trip(random_matrix(rng, scheme, rows, 96))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(scheme=st.sampled_from(SCHEMES), rows=st.integers(1, 70), groups=st.integers(1, 9), shift=st.integers(0, 9), seed=st.integers(0, 99))
def test_unpacking_gives_any_matrix_again(scheme: Scheme, rows: int, groups: int, shift: int, seed: int) -> None:
    assert_round_trip(random_matrix(np.random.default_rng(seed), scheme, rows, BLOCK * groups), shift)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rows_that_the_last_tile_lacks_are_zero_bytes(scheme: Scheme) -> None:
    """So that a tile never holds what was in memory before."""
    matrix = random_matrix(np.random.default_rng(1), scheme, TILE + 3, 64)
    result = packed(matrix, Space())
    blocks = result.codes.reshape(2, 2, -1, TILE, 4)
    assert not blocks[1, :, :, 3:].any()
    assert not result.scales.view(np.uint16).reshape(2, -1, TILE)[1, :, 3:].any()


def test_buffers_of_another_size_are_refused() -> None:
    matrix = random_matrix(np.random.default_rng(2), INT8, 3, 32)
    codes, scales = packed_bytes(INT8, 3, 32)
    for off in (-1, 1):
        with pytest.raises(InvalidRequestError, match=r"packing 3 x 32 as int8-g32 needs \(512, 32\) bytes"):
            native.pack(matrix, np.zeros(codes + off, np.uint8), np.zeros(scales // 2, np.float16))


def test_a_matrix_whose_parts_disagree_is_refused() -> None:
    """C would read past the end of the shorter one."""
    matrix = random_matrix(np.random.default_rng(3), INT4_MIN, 5, 64)
    assert matrix.minimums is not None
    codes, scales = packed_bytes(INT4_MIN, 5, 64)
    for broken in (
        replace(matrix, scales=matrix.scales[:4]),
        replace(matrix, minimums=matrix.minimums[:, :1]),
        replace(matrix, minimums=None),
        replace(matrix, scales=matrix.scales.astype(np.float32)),
    ):
        with pytest.raises(InvalidRequestError, match="int4-min-g32"):
            native.pack(broken, np.zeros(codes, np.uint8), np.zeros(scales // 2, np.float16))
