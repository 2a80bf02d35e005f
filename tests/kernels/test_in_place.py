"""Ops that change float vectors in place or add to others: against scalar C, bit for bit, and against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.ops.interface import Ops
from tests.kernels import bounds
from tests.kernels.calls import Call, Results, assert_same_bits, assert_within, native_results, reference_results, step
from tests.kernels.data import F32, NASTY, normal, sprinkled
from tests.kernels.space import Space

F64 = npt.NDArray[np.float64]
HEAD_DIMS = [16, 32, 48, 64, 80, 96, 128, 256]
COLS = [1, 15, 16, 17, 33, 96, 576]  # of what needs no whole vectors
LENGTHS = (1, 2, 3, 17, 129)


@dataclass(frozen=True)
class HeadNorm:
    """x [L, heads, E] = weight x / rms(x)."""

    x: F32
    weight: F32
    eps: float = 1e-6

    def run(self, ops: Ops, space: Space) -> Results:
        x = space.output(*self.x.shape, holding=self.x)
        ops.rmsnorm(x, space.input(self.weight), self.eps, step(5, len(self.x)))
        return {"x": x[:-1]}


@dataclass(frozen=True)
class NormAdd:
    """out [L, D] += weight x / rms(x)."""

    before: F32
    x: F32
    weight: F32
    eps: float = 1e-6

    def run(self, ops: Ops, space: Space) -> Results:
        out = space.output(*self.before.shape, holding=self.before)
        ops.rmsnorm_add(out, space.input(self.x), space.input(self.weight), self.eps, step(5, len(self.x)))
        return {"out": out[:-1]}


@dataclass(frozen=True)
class Bias:
    """x [L, N] += bias."""

    x: F32
    bias: F32

    def run(self, ops: Ops, space: Space) -> Results:
        x = space.output(*self.x.shape, holding=self.x)
        ops.add_bias(x, space.input(self.bias), step(5, len(self.x)))
        return {"x": x[:-1]}


@dataclass(frozen=True)
class Relu2:
    """up [L, F] = max(gate, 0)^2 up."""

    gate: F32
    up: F32

    def run(self, ops: Ops, space: Space) -> Results:
        up = space.output(*self.up.shape, holding=self.up)
        ops.relu2_gate(space.input(self.gate), up, step(5, len(self.up)))
        return {"up": up[:-1]}


def head_norm(cols: int = 48, length: int = 3, heads: int = 3) -> HeadNorm:
    rng = np.random.default_rng([cols, length, heads])
    return HeadNorm(normal(rng, length, heads, cols, size=3), normal(rng, cols))


def norm_add(cols: int = 48, length: int = 3) -> NormAdd:
    rng = np.random.default_rng([cols, length])
    return NormAdd(normal(rng, length, cols), normal(rng, length, cols, size=3), normal(rng, cols))


def bias(cols: int = 33, length: int = 3) -> Bias:
    rng = np.random.default_rng([cols, length])
    return Bias(normal(rng, length, cols), normal(rng, cols))


def relu2(cols: int = 33, length: int = 3) -> Relu2:
    rng = np.random.default_rng([cols, length])
    return Relu2(normal(rng, length, cols, size=3), normal(rng, length, cols))


MAKERS: tuple[Callable[..., Call], ...] = (head_norm, norm_add, bias, relu2)
every_op = pytest.mark.parametrize("make", MAKERS, ids=[make.__name__ for make in MAKERS])


def normed(call: HeadNorm | NormAdd) -> F64:
    """What a norm gives, unrounded."""
    wide = call.x.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + call.eps) * call.weight)


def check(call: Call, isa: str, bound: Any, threads: int = 1) -> None:
    got = native_results(call, isa, threads)
    assert_same_bits(call, native_results(call, "scalar"), got)
    for name, expected in reference_results(call).items():
        assert_within(call, name, expected, got[name], bound)


@pytest.mark.parametrize("heads", [1, 2, 9])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_head_norm(isa: str, head_dim: int, heads: int) -> None:
    for length in LENGTHS:
        call = head_norm(head_dim, length, heads)
        check(call, isa, (bounds.norm(head_dim) + bounds.U) * np.abs(normed(call)))


@pytest.mark.parametrize("cols", [16, 48, 96, 576, 640, 1536])
def test_norm_add(isa: str, cols: int) -> None:
    """Beside the norm's own roundings, the sum's, and that of the reference."""
    for length in LENGTHS:
        call = norm_add(cols, length)
        added = np.abs(normed(call))
        check(call, isa, bounds.norm(cols) * added + bounds.gamma(3) * (added + np.abs(call.before)))


@pytest.mark.parametrize("cols", COLS)
def test_bias_is_the_reference_bit_for_bit(isa: str, cols: int) -> None:
    for length in LENGTHS:
        call = bias(cols, length)
        assert_same_bits(call, reference_results(call), native_results(call, isa))


@pytest.mark.parametrize("cols", COLS)
def test_relu2(isa: str, cols: int) -> None:
    for length in LENGTHS:
        call = relu2(cols, length)
        exact = np.maximum(call.gate.astype(np.float64), 0) ** 2 * call.up
        check(call, isa, bounds.gamma(3) * np.abs(exact) + bounds.TINY * (1 + np.abs(call.up)))


def test_relu2_keeps_what_is_no_number_and_drops_what_is_negative(isa: str) -> None:
    gate = np.array([[np.nan, -np.inf, -1.0, -0.0, 0.0, 1e-30, np.inf]], np.float32)
    up = native_results(Relu2(gate, np.full_like(gate, 2)), isa)["up"][0]
    np.testing.assert_array_equal(up, [np.nan, 0, 0, 0, 0, 0, np.inf])


def test_a_head_of_zeros_stays_one(isa: str) -> None:
    """eps keeps the norm from dividing by zero."""
    call = HeadNorm(np.zeros((2, 1, 32), np.float32), np.ones(32, np.float32))
    assert not native_results(call, isa)["x"].any()


@every_op
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_no_bit(isa: str, threads: int, make: Callable[..., Call]) -> None:
    for length in (1, 4, 7):
        call = make(length=length)
        assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa, threads))


@every_op
@pytest.mark.parametrize("shift", [1, 2, 3, 5, 8])
def test_buffers_need_no_more_than_their_elements_alignment(isa: str, shift: int, make: Callable[..., Call]) -> None:
    call = make()
    assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa, shift=shift))


def test_nasty_floats_give_the_same_bits(isa: str) -> None:
    """Alone in a row, everywhere in it, and mixed."""
    rng = np.random.default_rng(16)
    one_by_one = normal(rng, len(NASTY), 48)
    one_by_one[:, 17] = NASTY
    x = np.concatenate([np.repeat(NASTY[:, None], 48, axis=1), one_by_one, sprinkled(rng, 40, 48)])
    other, weight = sprinkled(rng, *x.shape), sprinkled(rng, 48)
    calls: list[Call] = [HeadNorm(x[:, None], weight), NormAdd(other, x, weight), Bias(x, weight), Relu2(x, other)]
    for call in calls:
        assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa))
