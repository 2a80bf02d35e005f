"""Table lookup: the tables against NumPy, and products, whatever they were looked up in, against scalar multiply-add, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import BLOCK, INT8, QuantizedMatrix, Scheme
from edgellm.ops import native
from edgellm.ops.interface import TABLE_BYTES, Activation, LookupRoom, Ops, packed_bytes
from edgellm.ops.reference import lookup_tables
from tests.kernels.calls import Results, assert_same_bits, native_results, pool, step
from tests.kernels.data import F32, I8, SCHEMES, code_range, normal, quantized, random_activation, random_matrix
from tests.kernels.space import Space
from tests.kernels.test_matmul import ODD, Embed, Matmul, assert_same_values, exact_product, random_matmul

NARROW = [scheme for scheme in SCHEMES if scheme.family != "int8"]
every_scheme = pytest.mark.parametrize("scheme", NARROW, ids=str)


def check(call: Matmul, isa: str, threads: int = 1, shift: int = 0) -> None:
    """The bits of multiply-add."""
    found = native_results(replace(call, layout="lookup"), isa, threads, shift)
    assert_same_bits(call, native_results(call, "scalar"), found)


@dataclass(frozen=True)
class Tables:
    """Those that quantizing x makes, of its first row."""

    x: F32
    per_token: bool

    def run(self, ops: Ops, space: Space) -> Results:
        out = space.activation_output(*self.x.shape, per_token=self.per_token, tables=True)
        ops.quantize(out, space.input(self.x), step(0, len(self.x)))
        assert out.lookup
        return {"codes": out.codes[:1].copy(), **out.lookup.tables}


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("cols", [32, 96, 576])
def test_tables_are_the_reference(isa: str, cols: int, length: int, per_token: bool) -> None:
    rng = np.random.default_rng([cols, length])
    for x in (normal(rng, length, cols), rng.choice((-1, 1), (length, cols)).astype(np.float32)):
        got = native_results(Tables(x, per_token), isa, threads=2)
        for kind in TABLE_BYTES:
            np.testing.assert_array_equal(got[kind], lookup_tables(kind, got["codes"][0]), err_msg=kind)


@every_scheme
def test_odd_numbers_of_rows_and_blocks(isa: str, scheme: Scheme) -> None:
    for rows, blocks in zip(ODD, reversed(ODD), strict=True):
        check(random_matmul(1, scheme, rows, BLOCK * blocks, length=1, accumulate=rows % 4 == 1), isa)


@every_scheme
def test_any_number_of_tokens(isa: str, scheme: Scheme) -> None:
    """One is looked up, several are multiplied after a few tiles have been laid out: 117 rows are eight tiles, the last in part."""
    for length in (1, 2, 5, 13):
        check(random_matmul(2, scheme, 117, 96, length, accumulate=length == 5), isa)
    for n_outputs in (0, 1, 3):
        check(replace(random_matmul(3, scheme, 40, 64, length=9), n_outputs=n_outputs), isa)


@pytest.mark.parametrize("shape", [(576, 576), (192, 576), (576, 1536)], ids=str)
@every_scheme
def test_shapes_of_the_model(isa: str, scheme: Scheme, shape: tuple[int, int]) -> None:
    check(random_matmul(4, scheme, *shape, length=1), isa)


@pytest.mark.parametrize("threads", [2, 5])
@every_scheme
def test_threads_change_no_bit(isa: str, scheme: Scheme, threads: int) -> None:
    for rows, length in ((1, 1), (33, 1), (129, 1), (129, 3)):
        check(random_matmul(5, scheme, rows, 128, length), isa, threads)


@every_scheme
def test_buffers_need_no_more_than_their_elements_alignment(isa: str, scheme: Scheme) -> None:
    for shift, length in ((1, 1), (3, 2), (5, 1)):
        check(random_matmul(6, scheme, 37, 96, length), isa, shift=shift)


@every_scheme
def test_activations_with_one_scale_a_token(isa: str, scheme: Scheme) -> None:
    check(random_matmul(7, scheme, 37, 576, length=1, per_token=True), isa)


def exact(scheme: Scheme, codes: I8, x: I8, isa: str) -> None:
    """Weights whose scales are 1 and whose minimums are 0: every result is an integer."""
    shape = scheme.scales_shape(*codes.shape[1:])
    w = quantized(scheme, codes, np.ones(shape), np.zeros(shape))
    call = Matmul(w, x[None], np.ones((1, len(x) // BLOCK), np.float32), layout="lookup")
    assert_same_bits(call, {"out": exact_product(w, x[None]).astype(np.float32) + np.float32(0)}, native_results(call, isa))


@every_scheme
def test_sums_of_extreme_codes_are_exact(isa: str, scheme: Scheme) -> None:
    """Each sum of bytes and of 16 bits at its limits: every product the largest there is, or the smallest, and both in turn."""
    x = np.random.default_rng(8).choice((-127, 127), 128).astype(np.int8)
    smallest, largest = code_range(scheme)
    for vector in (x, np.full_like(x, 127), np.full_like(x, -127)):
        for low, high in ((smallest, largest), (largest, smallest)):
            codes = np.where(vector > 0, high, low).astype(np.int8)
            exact(scheme, np.tile(codes, (scheme.planes, 20, 1)), vector, isa)
    rng = np.random.default_rng(9)
    exact(scheme, rng.choice((smallest, largest), (scheme.planes, 48, 128)).astype(np.int8), x, isa)


@pytest.mark.parametrize("x_scale", [1e-45, 3e38, np.inf, np.nan], ids=str)
@every_scheme
def test_extreme_scales_give_the_same_bits(isa: str, scheme: Scheme, x_scale: float) -> None:
    rng = np.random.default_rng(10)
    base = random_matrix(rng, scheme, 20, 64)
    scales = base.scales.copy()
    scales.reshape(-1)[:6] = [2.0**-24, 65504.0, 0.0, -0.0, np.inf, np.nan][: scales.size]
    codes, x_scales = random_activation(rng, 1, 64)
    x_scales[:, 1] = x_scale
    check(Matmul(QuantizedMatrix(scheme, base.codes, scales, base.minimums), codes, x_scales), isa)


@every_scheme
def test_embedding_reads_the_layout(isa: str, scheme: Scheme) -> None:
    rng = np.random.default_rng(11)
    tokens = np.array([0, 16, *rng.integers(0, 129, 9)], np.int32)
    call = Embed(random_matrix(rng, scheme, 129, 96), tokens, layout="lookup")
    assert_same_values(call, native_results(call, isa, threads=2))


@every_scheme
def test_unpacking_gives_the_matrix_again(scheme: Scheme) -> None:
    matrix = random_matrix(np.random.default_rng(12), scheme, 37, 96)
    np.testing.assert_array_equal(Space().matrix(matrix, "lookup").unpack().codes, matrix.codes)


def test_int8_has_no_lookup_layout() -> None:
    codes, scales = packed_bytes(INT8, 16, 32)
    matrix = random_matrix(np.random.default_rng(13), INT8, 16, 32)
    with pytest.raises(InvalidRequestError, match="int8 has no lookup layout"):
        native.pack(matrix, np.zeros(codes, np.uint8), np.zeros(scales // 2, np.float16), "lookup")


def test_room_that_is_missing_or_too_small_is_refused(isa: str) -> None:
    """C would read tables that are not there, and lay tiles out in memory that is not the room's."""
    space, ops, at = Space(), native.Eager(isa, pool(1)), step(0, 1)
    w = space.matrix(random_matrix(np.random.default_rng(14), Scheme.parse("int3-g64"), 16, 64), "lookup")
    x = space.activation(*random_activation(np.random.default_rng(14), 1, 64), w)
    assert x.lookup
    tables, tiles = x.lookup.tables, x.lookup.tiles
    short = {**tables, "quads": tables["quads"][:1]}
    for room, message in (
        (None, "reads pairs and quads tables"),
        (LookupRoom({"pairs": tables["pairs"]}, tiles), "reads pairs and quads tables"),
        (LookupRoom(short, tiles), "quads tables of 1 blocks can't serve 64 columns"),
        (LookupRoom(tables, tiles[:, :-1].copy()), "4 tiles of 384 bytes don't fit into 1535"),
    ):
        broken = Activation(x.codes, x.scales, x.offsets, x.scaled_sums, lookup=room)
        with pytest.raises(InvalidRequestError, match=message):
            ops.matmul(space.output(1, 16), broken, w, at)
    with pytest.raises(InvalidRequestError, match="scratch serves 5 threads; the pool has 6"):
        native.Eager(isa, pool(6)).matmul(space.output(1, 16), x, w, at)
