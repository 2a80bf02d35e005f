"""Matrix multiplication and embedding: every scheme and shape against scalar C, bit for bit, and against NumPy within the bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.formats.matrix import BLOCK, INT8, QuantizedMatrix, Scheme
from edgellm.ops.interface import Layout, Ops
from tests.kernels import bounds
from tests.kernels.calls import Results, assert_same_bits, assert_within, native_results, reference_results, step
from tests.kernels.data import F32, I8, SCHEMES, code_range, quantized, random_activation, random_matrix
from tests.kernels.space import Space

MODEL_SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536)]
ODD = (1, 3, 5, 7, 9, 15, 17, 23, 31, 33, 47, 63, 65, 97, 127, 129)


@dataclass(frozen=True)
class Matmul:
    """out = w x, or out += w x where there is something before."""

    w: QuantizedMatrix
    codes: I8
    scales: F32
    before: F32 | None = None
    n_outputs: int | None = None
    layout: Layout = "multiply-add"

    def run(self, ops: Ops, space: Space) -> Results:
        length, (rows, _) = len(self.codes), self.w.shape
        results = length if self.n_outputs is None else self.n_outputs
        out = space.output(results, rows, holding=self.before)
        w = space.matrix(self.w, self.layout)
        x, at = space.activation(self.codes, self.scales, w), step(0, length, results)
        ops.matmul(out, x, w, at, accumulate=self.before is not None, outputs_only=self.n_outputs is not None)
        return {"out": out[:results]}


@dataclass(frozen=True)
class Embed:
    """Rows of a table."""

    table: QuantizedMatrix
    tokens: npt.NDArray[np.int32]
    layout: Layout = "multiply-add"
    scale: float = 1.0

    def run(self, ops: Ops, space: Space) -> Results:
        out = space.output(len(self.tokens), self.table.shape[1])
        ops.embed(out, space.input(self.tokens), space.matrix(self.table, self.layout), step(0, len(self.tokens)), self.scale)
        return {"out": out[:-1]}


def random_matmul(
    seed: int, scheme: Scheme, rows: int, cols: int, length: int, accumulate: bool = False, per_token: bool = False
) -> Matmul:
    rng = np.random.default_rng([seed, rows, cols, length])
    before = rng.normal(0, 3, (length, rows)).astype(np.float32) if accumulate else None
    return Matmul(random_matrix(rng, scheme, rows, cols), *random_activation(rng, length, cols, per_token), before)


def largest_weights(w: QuantizedMatrix) -> npt.NDArray[np.float64]:
    """sum_p |scale_p code_p| + |minimum|, [N, K]."""
    cols = w.shape[1]
    group = w.scheme.group if isinstance(w.scheme.group, int) else cols
    levels = np.abs(w.integer_codes().astype(np.float64) - w.scheme.zero)
    scales = np.abs(w.scales.reshape(*w.scales.shape[:2], -1).astype(np.float64))
    weights = np.einsum("pnk,nkp->nk", levels, np.repeat(scales, group, axis=1)[:, :cols].repeat(len(w.codes) // len(scales), axis=0))
    if w.minimums is not None:
        weights += np.repeat(np.abs(w.minimums.astype(np.float64)), group, axis=1)[:, :cols]
    return np.asarray(weights)


def assert_near_reference(call: Matmul, got: Results) -> None:
    length, cols, groups = len(got["out"]), call.w.shape[1], call.scales.shape[1]
    vectors = np.abs(call.codes[:length].reshape(length, groups, cols // groups)) * call.scales[:length, :, None].astype(np.float64)
    magnitudes = vectors.reshape(length, cols) @ largest_weights(call.w).T
    if call.before is not None:
        magnitudes += np.abs(call.before)
    assert_within(call, "out", reference_results(call)["out"], got["out"], bounds.matmul(magnitudes, call.w.scheme, cols))


def check(call: Matmul, isa: str, threads: int = 1) -> None:
    got = native_results(call, isa, threads)
    assert_same_bits(call, native_results(call, "scalar"), got)
    assert_near_reference(call, got)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_odd_numbers_of_rows(isa: str, scheme: Scheme) -> None:
    for rows in ODD:
        check(random_matmul(1, scheme, rows, cols=64, length=2, accumulate=rows % 4 == 1), isa)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_odd_numbers_of_tokens_and_those_around_the_blocks(isa: str, scheme: Scheme) -> None:
    for length in [*ODD, 4, 8, 12, 16, 128]:
        check(random_matmul(2, scheme, rows=17, cols=96, length=length, accumulate=length % 4 == 1), isa)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_number_of_groups(isa: str, scheme: Scheme) -> None:
    for groups in ODD:
        check(random_matmul(3, scheme, rows=19, cols=BLOCK * groups, length=3), isa)


@pytest.mark.parametrize("shape", MODEL_SHAPES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_shapes_of_the_model(isa: str, scheme: Scheme, shape: tuple[int, int]) -> None:
    for length in (1, 13):
        check(random_matmul(4, scheme, *shape, length, accumulate=shape[0] == 576), isa)


def test_head_of_the_model(isa: str) -> None:
    """49152 rows: all of them against scalar, and the last ones, which are a matrix of their own, against NumPy."""
    call = random_matmul(5, INT8, 49152, 576, length=1)
    got = native_results(call, isa)
    assert_same_bits(call, native_results(call, "scalar"), got)
    last = replace(call, w=call.w.take_rows(slice(-33, None)))
    assert_same_bits(last, {"out": got["out"][:, -33:]}, native_results(last, isa))
    check(last, isa)


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_threads_change_no_bit(isa: str, scheme: Scheme, threads: int) -> None:
    for rows in (1, 15, 16, 33, 129):
        check(random_matmul(6, scheme, rows, cols=128, length=5), isa, threads)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_tokens_at_once_or_one_by_one_give_the_same_bits(isa: str, scheme: Scheme) -> None:
    call = random_matmul(7, scheme, rows=33, cols=96, length=23, accumulate=True)
    together = native_results(call, isa)["out"]
    for token in range(23):
        at = slice(token, token + 1)
        assert call.before is not None
        alone = Matmul(call.w, call.codes[at], call.scales[at], call.before[at])
        assert_same_bits(alone, {"out": together[at]}, native_results(alone, isa))


@pytest.mark.parametrize("n_outputs", [0, 1, 4, 9])
def test_outputs_only_computes_as_many_rows(isa: str, n_outputs: int) -> None:
    check(replace(random_matmul(8, INT8, rows=40, cols=64, length=9), n_outputs=n_outputs), isa)


@pytest.mark.parametrize("shift", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_buffers_need_no_more_than_their_elements_alignment(isa: str, scheme: Scheme, shift: int) -> None:
    call = random_matmul(9, scheme, rows=37, cols=96, length=9, accumulate=True)
    assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa, shift=shift))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_activations_with_one_scale_a_token(isa: str, scheme: Scheme) -> None:
    for length in (1, 4, 13):
        check(random_matmul(13, scheme, rows=37, cols=576, length=length, accumulate=length == 4, per_token=True), isa)


def exact_product(w: QuantizedMatrix, codes: I8) -> npt.NDArray[np.int64]:
    """Of a matrix whose scales are 1 and whose minimums are 0."""
    weights = w.integer_codes().astype(np.int64).sum(axis=0) - w.scheme.planes * w.scheme.zero
    return np.asarray(codes.astype(np.int64) @ weights.T)


@pytest.mark.parametrize("activation", [-127, 127, 0])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_sums_of_extreme_codes_are_exact(isa: str, scheme: Scheme, activation: int, per_token: bool) -> None:
    """Pairs and blocks of products at their limits: what 16-bit sums would saturate at. Scales of 1 make every result an integer."""
    rows, cols, length = 33, 768, 9
    shape = scheme.scales_shape(rows, cols)
    for code in code_range(scheme):
        w = quantized(scheme, np.full((scheme.planes, rows, cols), code), np.ones(shape), np.zeros(shape))
        call = Matmul(w, np.full((length, cols), activation, np.int8), np.ones((length, 1 if per_token else cols // BLOCK), np.float32))
        assert_same_bits(call, {"out": exact_product(w, call.codes).astype(np.float32) + np.float32(0)}, native_results(call, isa))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_sums_of_alternating_extremes_are_exact(isa: str, scheme: Scheme) -> None:
    """Signs that cancel in one order of summing and overflow in another."""
    rng = np.random.default_rng(10)
    shape = scheme.scales_shape(48, 64)
    w = quantized(scheme, rng.choice(code_range(scheme), (scheme.planes, 48, 64)), np.ones(shape), np.zeros(shape))
    call = Matmul(w, rng.choice((-127, 127), (8, 64)).astype(np.int8), np.ones((8, 2), np.float32))
    assert_same_bits(call, {"out": exact_product(w, call.codes).astype(np.float32)}, native_results(call, isa))


SCALES = {"subnormal": 2.0**-24, "largest": 65504.0, "zero": 0.0, "minus zero": -0.0, "infinite": np.inf, "nan": np.nan}


@pytest.mark.parametrize("x_scale", [1e-45, 1e-38, 1.0, 3e38, np.inf, np.nan], ids=str)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_extreme_scales_give_the_same_bits(isa: str, scheme: Scheme, scale: str, x_scale: float) -> None:
    rng = np.random.default_rng(11)
    base = random_matrix(rng, scheme, 20, 64)
    scales = base.scales.copy()
    scales[::2, 0] = SCALES[scale]
    minimums = base.minimums
    if minimums is not None:
        minimums = np.where(rng.random(minimums.shape) < 0.5, SCALES[scale], minimums).astype(np.float16)
    codes, x_scales = random_activation(rng, 5, 64)
    x_scales[1:, 1] = x_scale
    call = Matmul(QuantizedMatrix(scheme, base.codes, scales, minimums), codes, x_scales)
    assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa))


def test_every_float16_scale_is_widened_exactly(isa: str) -> None:
    """65536 rows, one for each pattern of bits, times the vector 1, 0, 0 ...: the products are the scales."""
    scales = np.arange(65536, dtype=np.uint16).view(np.float16)[:, None]
    codes = np.zeros((1, BLOCK), np.int8)
    codes[0, 0] = 1
    call = Matmul(quantized(INT8, np.ones((1, 65536, BLOCK)), scales), codes, np.ones((1, 1), np.float32))
    with np.errstate(invalid="ignore"):  # NaN among them
        expected = scales.astype(np.float32).T + np.float32(0)  # -0 becomes 0 when it is added to the sum
    assert_same_bits(call, {"out": expected}, native_results(call, isa))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_embedding_is_the_row(isa: str, scheme: Scheme, threads: int) -> None:
    for rows, cols in ((1, 32), (17, 96), (129, 576)):
        rng = np.random.default_rng([12, rows])
        tokens = np.array([0, rows - 1, *rng.integers(0, rows, 9)], np.int32)
        for scale in (1.0, 25.298221):  # the root of 640
            call = Embed(random_matrix(rng, scheme, rows, cols), tokens, scale=scale)
            assert_same_values(call, native_results(call, isa, threads))
            assert_same_values(call, native_results(call, isa, threads, shift=3))


def assert_same_values(call: Embed, got: Results) -> None:
    """The dequantized row, scaled, -0 being 0: an embedding adds a minimum, which is 0 where the scheme has none."""
    expected: dict[str, Any] = {"out": np.float32(call.scale) * (call.table.take_rows(call.tokens).dequantize() + np.float32(0))}
    assert_same_bits(call, expected, got)
