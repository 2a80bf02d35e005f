"""Whole matrices rounded to nearest: groupings, shorter groups at the end of rows, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.errors import UnsupportedModelError
from edgellm.formats.matrix import F32, QuantizedMatrix, Scheme
from edgellm.quantize import rtn
from edgellm.quantize.rtn import round_to_nearest
from tests.kernels.data import SCHEMES
from tests.unit.formats.synthetic import same_bits


def normal(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def relative_error(weights: F32, matrix: QuantizedMatrix) -> float:
    return float(((weights - matrix.dequantize()) ** 2).sum() / (weights**2).sum())


def same_matrix(a: QuantizedMatrix, b: QuantizedMatrix) -> bool:
    assert (a.minimums is None) == (b.minimums is None)
    parts = [(a.codes, b.codes), (a.scales, b.scales), *([] if a.minimums is None or b.minimums is None else [(a.minimums, b.minimums)])]
    return a.scheme == b.scheme and all(same_bits(x, y) for x, y in parts)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_matrix_is_its_scheme_and_near_its_weights(scheme: Scheme) -> None:
    weights = normal(50, 160)
    matrix = round_to_nearest("w", weights, scheme)
    assert (matrix.scheme, matrix.shape) == (scheme, (50, 160))
    assert matrix.nbytes == scheme.nbytes(50, 160)
    assert matrix.scales.shape == scheme.scales_shape(50, 160)
    levels = 3**scheme.planes if scheme.is_trits else 2 ** int(scheme.family[3])
    assert relative_error(weights, matrix) < 2 / levels**1.7  # of a normal distribution, more levels err less: about levels^-1.8


@pytest.mark.parametrize("family", ["int4-min", "ternary", "tritplanes2"])
def test_the_shorter_groups_at_the_end_of_rows_are_fitted_by_themselves(family: str) -> None:
    weights = normal(7, 160)
    whole = round_to_nearest("w", weights, Scheme.parse(f"{family}-g64"))
    first = round_to_nearest("w", weights[:, :128], Scheme.parse(f"{family}-g64"))
    last = round_to_nearest("w", weights[:, 128:], Scheme.parse(f"{family}-g32"))
    assert same_bits(whole.dequantize(), np.concatenate([first.dequantize(), last.dequantize()], axis=1))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_how_many_groups_are_fitted_together_changes_no_bit(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = normal(40, 96)
    expected = round_to_nearest("w", weights, scheme)
    for at_once in (1, 500, 1 << 30):
        monkeypatch.setattr(rtn, "AT_ONCE", at_once)
        assert same_matrix(round_to_nearest("w", weights, scheme), expected)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_was_rounded_is_rounded_to_itself_or_nearer(scheme: Scheme) -> None:
    weights = round_to_nearest("w", normal(20, 128), scheme).dequantize()
    assert relative_error(weights, round_to_nearest("w", weights, scheme)) < 1e-3


def test_a_ternary_tensor_comes_back_exactly() -> None:
    """As a model that was trained in ternary has it; the mean magnitude of all its weights would not be its scale."""
    weights = np.random.default_rng(0).integers(-1, 2, (30, 64)).astype(np.float32) * np.float32(0.0625)
    matrix = round_to_nearest("w", weights, Scheme("ternary", "tensor"))
    assert same_bits(matrix.dequantize() + np.float32(0), weights + np.float32(0))


@pytest.mark.parametrize("group", [64, "row", "tensor"])
def test_ternary_errs_less_than_by_the_mean_magnitude(group: int | str) -> None:
    """BitNet b1.58's absmean (Ma et al., 2024), in whatever groups."""
    weights = normal(60, 128) ** 3
    matrix = round_to_nearest("w", weights, Scheme.parse(f"ternary-{'g64' if group == 64 else group}"))
    groups = weights.reshape({64: (-1, 64), "row": (60, -1), "tensor": (1, -1)}[group])
    scales = np.abs(groups).mean(axis=1, keepdims=True)
    absmean = np.clip(np.rint(groups / scales), -1, 1) * scales
    assert relative_error(weights, matrix) < 0.95 * ((groups - absmean) ** 2).sum() / (weights**2).sum()


def test_int8_is_within_half_a_step() -> None:
    weights = normal(50, 96) * np.float32(3)
    matrix = round_to_nearest("w", weights, Scheme("int8", 32))
    groups = weights.reshape(50, 3, 32)
    assert same_bits(matrix.scales, (np.abs(groups).max(axis=-1) / np.float32(127)).astype(np.float16))
    scales = matrix.scales.astype(np.float64)[:, :, None]
    error = np.abs(groups - matrix.integer_codes()[0].reshape(50, 3, 32) * scales)
    assert (error <= scales * (0.5 + 127 * 2**-11)).all()  # half a step, and what rounding the scale to float16 costs the largest


def test_halves_round_to_even_and_zeros_stay_zero() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    matrix = round_to_nearest("w", weights, Scheme("int8", 32))
    assert matrix.integer_codes()[0, 0, :6].tolist() == [127, 0, 2, 2, 0, -2]
    assert not matrix.scales[0, 1]
    assert not matrix.dequantize()[:, 32:].any()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e8, 1e38])
def test_weights_without_a_scale_are_refused(scheme: Scheme, bad: float) -> None:
    weights = np.ones((2, 32), np.float32)
    weights[1, 3] = bad
    with pytest.raises(UnsupportedModelError, match=f"tensor w has a weight that is not finite, or too large for .* scales of {scheme}"):
        round_to_nearest("w", weights, scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_largest_weights_are_stored_or_refused(scheme: Scheme) -> None:
    """65504 is the largest float16; a matrix that is not refused is finite."""
    for largest in (65504.0, 65504.0 * 2, 65504.0 * 13, 65504.0 * 127):
        weights = np.linspace(-largest, largest, 64, dtype=np.float32)[None]
        try:
            matrix = round_to_nearest("w", weights, scheme)
        except UnsupportedModelError:
            assert largest > 65504
        else:
            assert relative_error(weights, matrix) < 0.4


def test_columns_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="tensor w has 40 columns; int8-g32 needs a multiple of 32"):
        round_to_nearest("w", np.ones((2, 40), np.float32), Scheme("int8", 32))
