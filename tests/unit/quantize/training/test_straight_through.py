"""The grid that weights are trained on: its codes are the file's, its levels the nearest, its gradients those that are meant."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from edgellm.formats.matrix import QuantizedMatrix, Scheme
from edgellm.quantize.rtn import round_to_nearest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgellm[train]'")

from edgellm.ops.reference import quantize_rows  # noqa: E402
from edgellm.quantize.training import straight_through as st  # noqa: E402
from edgellm.runtime.workspace import Arena, new_activation  # noqa: E402

SCHEMES = ["ternary-g64", "ternary-row", "ternary-tensor", "tritplanes2-g64", "tritplanes3-g32", "int2-g64", "int2-min-g64", "int3-g32",
           "int3-min-g64", "int4-g64", "int4-min-g128", "int8-g32", "int8-row"]  # fmt: skip
ROWS, COLS = 6, 96  # of groups of 64 the last one is half as long


def weights(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.05, (ROWS, COLS)).astype(np.float32)


def linear(scheme: str, near: Any = None) -> tuple[QuantizedMatrix, Any]:
    matrix = round_to_nearest("w", weights(), Scheme.parse(scheme))
    return matrix, st.QuantizedLinear(matrix, weights() if near is None else near, "int8-g32")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("near", ["its own weights", "other weights"])
def test_what_starts_as_a_matrix_is_that_matrix(scheme: str, near: str) -> None:
    matrix, layer = linear(scheme, weights(0 if near == "its own weights" else 1))
    made = layer.matrix()
    assert np.array_equal(made.codes, matrix.codes)
    assert np.array_equal(made.scales, matrix.scales)
    assert (made.minimums is None) == (matrix.minimums is None)
    if made.minimums is not None and matrix.minimums is not None:
        assert np.array_equal(made.minimums, matrix.minimums)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rounded_weights_are_those_of_the_stored_matrix_and_nearest(scheme: str) -> None:
    _, layer = linear(scheme)
    with torch.no_grad():
        layer.latent += 0.03 * torch.randn(layer.latent.shape, generator=torch.Generator().manual_seed(0))
        layer.coefficients *= 1.1
        used = st.round_weights(layer.latent, layer.coefficients, layer.scheme).numpy()
    stored = layer.matrix().dequantize()
    np.testing.assert_allclose(used, stored, rtol=0, atol=1e-7)
    lowest, highest = st.code_range(layer.scheme)
    combinations = np.array(list(itertools.product(range(lowest, highest + 1), repeat=layer.scheme.planes)))
    group = layer.scheme.group if isinstance(layer.scheme.group, int) else COLS
    a = layer.coefficients.detach().half().float().expand(ROWS, layer.scheme.groups(COLS), -1).numpy()
    latent = layer.latent.detach().numpy()
    for row, col in itertools.product(range(ROWS), range(0, COLS, 7)):
        of_group = a[row, col // group]
        levels = combinations @ of_group[: layer.scheme.planes] + (of_group[-1] if layer.scheme.has_min else 0)
        assert abs(used[row, col] - latent[row, col]) <= np.abs(levels - latent[row, col]).min() + 1e-6


@pytest.mark.parametrize("scheme", ["ternary-g32", "tritplanes2-g32", "int2-min-g32", "int3-g64", "int4-min-tensor"])
def test_gradients_are_those_of_the_codes(scheme: str) -> None:
    """W = C a: dL/da = C^T g exactly, which finite differences agree with while no code changes; dL/dlatent = g."""
    _, layer = linear(scheme)
    g = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1))
    st.round_weights(layer.latent, layer.coefficients, layer.scheme).backward(g)
    assert torch.equal(layer.latent.grad, g)
    rows, group_count = ROWS, layer.scheme.groups(COLS)
    with torch.no_grad():
        groups = st.column_groups(layer.latent, layer.scheme)
        a = layer.coefficients.expand(rows, group_count, -1)
        codes = st.nearest(groups, a, layer.scheme)
        direction = torch.randn(layer.coefficients.shape, generator=torch.Generator().manual_seed(2))
        moved = st.combine(codes, a + direction.expand_as(a)) - st.combine(codes, a)
        expected = (moved * st.column_groups(g, layer.scheme)).sum()
    assert float((layer.coefficients.grad * direction).sum()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("activations", "per_token"), [("int8-g32", False), ("int8-token", True)])
def test_activations_are_rounded_as_the_kernels_do(activations: str, per_token: bool) -> None:
    x = np.random.default_rng(3).normal(0, 2, (5, COLS)).astype(np.float32)
    x[1], x[2, :32], x[3, 5] = 0, 1e-31, 1000
    expected = new_activation(Arena(1 << 16), 5, COLS, per_token)
    quantize_rows(expected, x.astype(np.float64))
    rounded = st.round_activations(torch.from_numpy(x), activations).numpy()
    assert np.array_equal(rounded, expected.codes * np.repeat(expected.scales, expected.group, axis=1))


def test_activations_pass_gradients_on() -> None:
    x = torch.randn(2, COLS, requires_grad=True)
    g = torch.randn(2, COLS)
    st.round_activations(x, "int8-g32").backward(g)
    assert torch.equal(x.grad, g)


def test_a_scale_of_zero_gives_zeros_and_no_nan() -> None:
    matrix = round_to_nearest("w", np.zeros((ROWS, COLS), np.float32), Scheme.parse("ternary-g32"))
    layer = st.QuantizedLinear(matrix, weights(), "int8-g32")
    y = layer(torch.randn(2, COLS))
    y.sum().backward()
    assert not y.detach().any()
    assert torch.isfinite(layer.latent.grad).all()
    assert torch.isfinite(layer.coefficients.grad).all()
