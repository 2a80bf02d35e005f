"""The ablation lut8: tables as NumPy has them, products that they sum up to, no farther from the exact ones than rounding takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import BLOCK, Scheme
from edgellm.ops import native
from edgellm.ops.interface import LAYOUTS
from edgellm.ops.reference import rounded_tables
from edgellm.runtime.kernels import choose_layout
from tests.kernels.calls import Results, assert_same_bits, assert_within, pool, reference_results, step
from tests.kernels.data import normal, random_activation, random_matrix
from tests.kernels.space import CANARY, Space
from tests.kernels.test_matmul import Matmul, assert_near_reference, random_matmul

SCHEMES = [
    Scheme.parse(name)
    for name in ("int4-g32", "int4-min-g32", "int2-g64", "int2-min-g32", "ternary-row", "tritplanes2-g64", "tritplanes3-g32")
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


def lut8_results(call: Matmul, isa: str, threads: int = 1, times: int = 1) -> Results:
    """The product by rounded tables, and those."""
    space, made = Space(), []

    def empty(shape: tuple[int, ...], dtype: type) -> npt.NDArray[np.generic]:
        made.append(space.empty(shape, dtype))
        return made[-1]

    recorder = native.Lut8Recorder(isa, empty)
    length = len(call.codes)
    out, w = space.output(length, call.w.shape[0], holding=call.before), space.matrix(call.w, "lookup")
    x, at = space.activation(call.codes, call.scales, w), step(0, length)
    for _ in range(times):
        recorder.matmul(out, x, w, at, accumulate=call.before is not None)
    assert len(recorder.plan) == 1 + times, "tables are made once for all that read them"
    recorder.plan.run(pool(threads), at)
    space.check()
    return {"out": out[:length], "tables": made[0], "scales": made[1]}


def by_definition(call: Matmul) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The product [1, N] in exact arithmetic of the rounded tables, and how far it may lie from the product: half a step a lookup."""
    scheme, (rows, cols) = call.w.scheme, call.w.shape
    tables, steps = rounded_tables(scheme, call.codes[0])
    bits = 4 if scheme.family == "int4" else 2
    codes = call.w.integer_codes().reshape(scheme.planes, rows, cols // BLOCK, bits, 2, 4 // bits, 4)
    index = np.einsum("pnbuhkc,k->pnbuhc", codes.astype(np.int64), 1 << bits * np.arange(4 // bits))
    index = index.reshape(scheme.planes, rows, cols // BLOCK, 8 * bits)
    sums = tables[np.arange(cols // BLOCK)[:, None], np.arange(8 * bits), index].sum(axis=3, dtype=np.int64)  # [P, N, B]
    scaled = steps.astype(np.float64) * call.scales[0]
    groups = np.arange(cols // BLOCK) * BLOCK // (scheme.group if isinstance(scheme.group, int) else cols)
    weights = call.w.scales.reshape(*call.w.scales.shape[:2], -1).astype(np.float64)[:, groups]  # [N, B, P]
    product = np.einsum("pnb,b,nbp->n", sums, scaled, weights)
    if call.w.minimums is not None:
        block_sums = call.codes[0].reshape(-1, BLOCK).sum(axis=1, dtype=np.int64) * call.scales[0].astype(np.float64)
        product += call.w.minimums.astype(np.float64)[:, groups] @ block_sums
    return product[None], np.einsum("b,nbp->n", scaled * 8 * bits / 2, np.abs(weights))[None]


@every_scheme
def test_products_are_those_of_the_rounded_tables(isa: str, scheme: Scheme) -> None:
    for rows, cols in ((1, 64), (37, 96), (129, 576)):
        call = random_matmul(1, scheme, rows, cols, length=1)
        got = lut8_results(call, isa, threads=2)
        tables, steps = rounded_tables(scheme, call.codes[0])
        np.testing.assert_array_equal(got["tables"].view(np.int8).reshape(tables.shape), tables)
        np.testing.assert_array_equal(got["scales"], call.scales[0] * steps)
        assert_same_bits(call, lut8_results(call, "scalar"), got)
        expected, half_steps = by_definition(call)
        assert_within(call, "out", expected, got["out"], 1e-5 * np.abs(half_steps) + 1e-5 * np.abs(expected))
        exact = reference_results(call)["out"]
        assert_within(call, "out", exact, got["out"], half_steps * (1 + 1e-4))
        assert np.abs(got["out"] - exact).max() > 1e-3 * half_steps.max(), "rounding shows"


@every_scheme
def test_accumulating_and_sharing_tables(isa: str, scheme: Scheme) -> None:
    call = random_matmul(3, scheme, 37, 96, length=1, accumulate=True)
    assert call.before is not None
    once = lut8_results(replace(call, before=np.zeros_like(call.before)), isa)["out"]
    twice = lut8_results(call, isa, times=2)["out"]
    assert_same_bits(call, {"out": call.before + once + once}, {"out": twice})


def test_quantizing_makes_the_tables_of_the_past_anew_and_none_that_are_exact() -> None:
    """Two vectors, one after the other, in the same buffers."""
    space, rng, at = Space(), np.random.default_rng(6), step(0, 1)
    w, x = space.matrix(random_matrix(rng, SCHEMES[0], 16, 64), "lookup"), space.activation_output(1, 64, tables=True)
    assert x.lookup
    room = replace(x, lookup=replace(x.lookup, tiles=space.empty((1, 4 * w.tile_bytes), np.uint8)))
    vectors, outs = [space.input(normal(rng, 1, 64)) for _ in range(2)], [space.output(1, 16) for _ in range(2)]
    recorder = native.Lut8Recorder("scalar", space.empty)
    for vector, out in zip(vectors, outs, strict=True):
        recorder.quantize(room, vector, at)
        recorder.matmul(out, room, w, at)
    recorder.plan.run(pool(1), at)
    assert [op.name for op in recorder.plan.ops] == 2 * ["quantize", "lut8_tables", "lut8"]
    assert all((table == CANARY).all() for table in x.lookup.tables.values())
    for vector, out in zip(vectors, outs, strict=True):
        np.testing.assert_allclose(out[0], w.unpack().dequantize(np.float64) @ vector[0], atol=0.05)


@every_scheme
def test_several_vectors_are_multiplied_exactly(isa: str, scheme: Scheme) -> None:
    call = random_matmul(4, scheme, 37, 96, length=3)
    assert_near_reference(call, {"out": lut8_results(call, isa)["out"]})


@dataclass(frozen=True)
class _Refusal:
    scheme: str
    per_token: bool


@pytest.mark.parametrize("refusal", [_Refusal("int3-g64", per_token=False), _Refusal("int2-g64", per_token=True)], ids=str)
def test_what_it_does_not_take_is_refused(refusal: _Refusal) -> None:
    space, rng = Space(), np.random.default_rng(5)
    w = space.matrix(random_matrix(rng, Scheme.parse(refusal.scheme), 16, 64), "lookup")
    x = space.activation(*random_activation(rng, 1, 64, refusal.per_token), w)
    with pytest.raises(InvalidRequestError, match="lut8 takes codes of 2 or 4 bits and activations in groups of 32"):
        native.Lut8Recorder("scalar", np.zeros).matmul(space.output(1, 16), x, w, step(0, 1))


def test_it_is_no_layout() -> None:
    assert "lut8" not in LAYOUTS
    with pytest.raises(InvalidRequestError, match="layout must be one of 'multiply-add', 'lookup', not 'lut8'"):
        choose_layout(Scheme.parse("int4-g32"), "scalar", "lut8")  # type: ignore[arg-type]
