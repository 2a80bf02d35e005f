"""GPTQ: what it promises of one matrix."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.errors import UnsupportedModelError
from edgellm.formats.matrix import F32, Scheme
from edgellm.quantize.gptq import DAMPING, F64, Factor, columns_of_a_group, gptq, output_error
from edgellm.quantize.rtn import round_to_nearest
from tests.kernels.data import SCHEMES
from tests.unit.formats.synthetic import same_bits

ROWS, COLS = 24, 160


def matrix(seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal((ROWS, COLS), np.float32)


def hessian(seed: int = 1) -> F64:
    """Of inputs that depend on each other, some much larger than others."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4 * COLS, 40)) @ rng.standard_normal((40, COLS)) + 0.3 * rng.standard_normal((4 * COLS, COLS))
    x *= np.exp(rng.normal(0, 0.7, COLS))
    return x.T @ x / len(x)


def rounded(scheme: Scheme, weights: F32, given: F64) -> float:
    """The relative output error."""
    done = gptq("w", weights, Factor.of(given, columns_of_a_group(scheme, COLS)), scheme).matrix
    error, total = output_error(weights, done, given)
    return error / total


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_matrix_is_its_scheme_and_puts_out_less_error_than_round_to_nearest(scheme: Scheme) -> None:
    weights, given = matrix(), hessian()
    done = gptq("w", weights, Factor.of(given, columns_of_a_group(scheme, COLS)), scheme)
    assert (done.matrix.scheme, done.matrix.shape) == (scheme, (ROWS, COLS))
    assert done.matrix.nbytes == scheme.nbytes(ROWS, COLS)
    assert done.matrix.scales.shape == scheme.scales_shape(ROWS, COLS)
    ours, theirs = (output_error(weights, m, given)[0] for m in (done.matrix, round_to_nearest("w", weights, scheme)))
    assert ours < (0.9 if scheme.family == "int8" else 0.6) * theirs


@pytest.mark.parametrize("scheme", ["int4-min-g32", "ternary-g64", "tritplanes2-g64", "int8-g32"])
def test_inputs_that_do_not_depend_on_each_other_make_it_round_to_nearest_level(scheme: str) -> None:
    """Then no column can make up for another: the weights that are rounded are those that were given."""
    weights, parsed = matrix(), Scheme.parse(scheme)
    done = gptq("w", weights, Factor.of(np.eye(COLS), columns_of_a_group(parsed, COLS)), parsed)
    assert same_bits(done.updated, weights)
    ours, theirs = (float(((weights - m.dequantize()) ** 2).sum()) for m in (done.matrix, round_to_nearest("w", weights, parsed)))
    assert ours < 1.02 * theirs


def test_the_updated_weights_are_what_was_rounded() -> None:
    """Each is within half a step of its level, or cut off at the outermost."""
    scheme = Scheme.parse("int4-min-g32")
    done = gptq("w", matrix(), Factor.of(hessian(), 32), scheme)
    assert done.matrix.minimums is not None
    scales = np.repeat(done.matrix.scales.astype(np.float32), 32, axis=1)
    codes = done.matrix.integer_codes()[0]
    inner = (codes > 0) & (codes < 15)
    assert (np.abs(done.updated - done.matrix.dequantize())[inner] <= 0.5001 * np.abs(scales[inner])).all()


def test_the_factor_is_that_of_the_damped_inverse_in_the_order_of_the_groups() -> None:
    given = hessian()
    factor = Factor.of(given, 64)
    order = np.concatenate(factor.groups)
    damped = given + np.eye(COLS) * DAMPING * np.diag(given).mean()
    upper = factor.upper.astype(np.float64)
    np.testing.assert_allclose(upper.T @ upper @ damped[np.ix_(order, order)], np.eye(COLS), atol=1e-3)
    means = [np.diag(given)[columns].mean() for columns in factor.groups]
    assert means == sorted(means, reverse=True)
    assert sorted(len(columns) for columns in factor.groups) == [32, 64, 64]
    for columns in factor.groups:
        assert (np.diff(np.diag(given)[columns]) <= 0).all()
        assert columns.max() - columns.min() == len(columns) - 1


def test_how_many_columns_are_updated_together_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, weights, given = Scheme.parse("int3-row"), matrix(), hessian()
    errors = []
    for columns in (1, 32, COLS):
        monkeypatch.setattr("edgellm.quantize.gptq.COLUMNS_AT_ONCE", columns)
        errors.append(rounded(scheme, weights, given))
    np.testing.assert_allclose(errors, errors[0], rtol=0.05)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weights, given = matrix(), hessian()
    given[:, :40], given[:40] = 0, 0
    for one in (given, np.zeros_like(given)):
        done = gptq("w", weights, Factor.of(one, 64), Scheme.parse("int4-min-g64")).matrix
        assert np.isfinite(done.dequantize()).all()
        assert float(((weights - done.dequantize()) ** 2).mean()) < 0.05


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e38])
def test_weights_without_a_scale_are_refused(scheme: Scheme, bad: float) -> None:
    weights = matrix()
    weights[1, 3] = bad
    with pytest.raises(UnsupportedModelError, match="tensor w has a weight that is not finite, or too large for the float16 scales"):
        gptq("w", weights, Factor.of(np.eye(COLS), columns_of_a_group(scheme, COLS)), scheme)


def test_columns_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="tensor w has 40 columns; int8-g32 needs a multiple of 32"):
        gptq("w", np.ones((2, 40), np.float32), Factor.of(np.eye(40), 32), Scheme("int8", 32))
