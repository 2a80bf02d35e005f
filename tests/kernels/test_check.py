"""What is not finite is found: the first of it, wherever it is, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.ops import native
from edgellm.ops.checked import Checked, Finding, finding, forget
from edgellm.ops.interface import KEY_TILE, CheckingOps, Ops, Step
from edgellm.ops.reference import Reference
from tests.kernels.calls import Results, assert_same_bits, native_results, pool, reference_results, step
from tests.kernels.data import F32, normal
from tests.kernels.space import Space

OP, OTHER_OP = 5, 9
BAD = [np.nan, -np.nan, np.inf, -np.inf]
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Finite:
    """x [L, K], the last rows of a step that has so many tokens before them; below it a row that nobody asks about."""

    x: F32
    before: int = 0

    def run(self, ops: CheckingOps, space: Space) -> Results:
        first = space.empty((1,), np.int64)
        forget(first)
        rows = len(self.x)
        ops.check_finite(
            first, space.input(np.vstack([self.x, np.full_like(self.x[:1], np.nan)])), OP, step(3, rows + self.before, rows), True
        )
        return {"first": first}


@dataclass(frozen=True)
class Cached:
    """Keys and values [L, G, E] at a position of a cache that is full of NaN everywhere else."""

    keys: F32
    values: F32
    position: int
    dtype: npt.DTypeLike

    def run(self, ops: CheckingOps, space: Space) -> Results:
        length, heads, dim = self.keys.shape
        context = 3 * KEY_TILE
        keys, values = (np.full(shape, np.nan, self.dtype) for shape in ((heads, 3, dim, KEY_TILE), (heads, context, dim)))
        here = np.arange(self.position, self.position + length)
        with np.errstate(over="ignore"):
            keys[:, here // KEY_TILE, :, here % KEY_TILE] = self.keys
            values[:, here] = self.values.transpose(1, 0, 2)
        first = space.empty((1,), np.int64)
        forget(first)
        ops.check_cache(first, space.cache(keys, values), OP, step(self.position, length))
        return {"first": first}


def found(call: Finite | Cached, isa: str, threads: int = 1) -> Finding | None:
    """What the kernel finds, which is what NumPy finds."""
    got = native_results(call, isa, threads)
    assert_same_bits(call, reference_results(call), got)
    return finding(got["first"])


def with_bad(shape: tuple[int, ...], *flat: int) -> F32:
    """Finite extremes, and what is not finite at some places."""
    x = np.resize(np.array([LARGEST, -LARGEST, 0.0, -0.0, 1e-45], np.float32), shape)
    x.reshape(-1)[list(flat)] = np.resize(np.array(BAD, np.float32), len(flat))
    return x


@pytest.mark.parametrize("cols", [1, 15, 16, 17, 33, 64])
def test_every_element_is_looked_at(isa: str, cols: int) -> None:
    assert found(Finite(with_bad((2, cols))), isa) is None
    for element in range(2 * cols):
        assert found(Finite(with_bad((2, cols), element)), isa) == (OP, element // cols, element % cols)


@pytest.mark.parametrize("bad", BAD)
def test_every_bad_value_counts(isa: str, bad: float) -> None:
    x = normal(np.random.default_rng(0), 3, 40)
    x[1, 37] = bad
    assert found(Finite(x, before=6), isa) == (OP, 7, 37)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_the_first_is_told_whichever_thread_finds_it(isa: str, threads: int) -> None:
    for places in ((139,), (7, 8, 139), range(20, 140)):
        assert found(Finite(with_bad((7, 20), *places)), isa, threads) == (OP, min(places) // 20, min(places) % 20)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("position", "length"), [(0, 1), (KEY_TILE - 1, 2), (70, 100)])
def test_keys_and_values_of_the_step_are_looked_at(isa: str, position: int, length: int, dtype: npt.DTypeLike) -> None:
    rng = np.random.default_rng(1)
    keys, values = normal(rng, length, 3, 32), normal(rng, length, 3, 32)
    assert found(Cached(keys, values, position, dtype), isa, threads=2) is None
    for part, at in ((keys, 0), (values, 32)):
        for head, element in ((0, 0), (2, 31)):
            bad = part.copy()
            bad[length - 1, head, element] = np.inf
            call = Cached(*((bad, values) if part is keys else (keys, bad)), position, dtype)
            assert found(call, isa, threads=2) == (OP, length - 1, head * 64 + at + element)


def test_what_outgrows_float16_is_found(isa: str) -> None:
    keys, values = np.full((1, 1, 16), 65504, np.float32), np.full((1, 1, 16), 65519, np.float32)
    assert found(Cached(keys, values, 0, np.float16), isa) is None
    values[0, 0, 3] = 65520
    assert found(Cached(keys, values, 0, np.float16), isa) == (OP, 0, 16 + 3)
    assert found(Cached(keys, values, 0, np.float32), isa) is None


def test_an_earlier_op_goes_before_a_later_one(isa: str) -> None:
    space = Space()
    first, x = space.empty((1,), np.int64), space.input(with_bad((2, 16), 20))
    for ops in ((OP, OTHER_OP), (OTHER_OP, OP)):
        forget(first)
        for op in ops:
            native.Eager(isa, pool(1)).check_finite(first, x, op, step(0, 2))
        assert finding(first) == (OP, 1, 4)


CHECKED: dict[str, Callable[[Ops, F32, Step], None]] = {
    "rmsnorm": lambda ops, x, at: ops.rmsnorm(x.reshape(2, 2, 16), np.ones(16, np.float32), 1e-6, at),
    "rmsnorm_add": lambda ops, x, at: ops.rmsnorm_add(x, np.ones_like(x), np.ones(32, np.float32), 1e-6, at),
    "add_bias": lambda ops, x, at: ops.add_bias(x, np.ones(32, np.float32), at),
    "relu2_gate": lambda ops, x, at: ops.relu2_gate(np.ones_like(x), x, at),
}
"""Ops that pass on what is not finite in x [2, 32]."""


@pytest.mark.parametrize("op", CHECKED)
def test_what_an_op_leaves_in_place_is_checked(op: str) -> None:
    first, at = np.zeros(1, np.int64), step(0, 2)
    for make in (lambda: native.Eager("scalar", pool(1)), Reference):
        forget(first)
        ops = Checked(make(), first)
        with np.errstate(invalid="ignore"):
            CHECKED[op](ops, np.ones((2, 32), np.float32), at)
            assert finding(first) is None
            CHECKED[op](ops, with_bad((2, 32), 40), at)
        found = finding(first)
        assert found is not None
        assert (found.op, found.token) == (1, 1)  # the second op, in the second token


def test_what_a_check_can_not_note_is_refused() -> None:
    eager, x = native.Eager("scalar", pool(1)), np.zeros((1, 16), np.float32)
    for first, op in (
        (np.zeros(1, np.int32), 0),
        (np.zeros(2, np.int64), 0),
        (np.zeros(1, np.int64), 1 << 15),
        (np.zeros(1, np.int64), -1),
    ):
        with pytest.raises(InvalidRequestError, match=r"a check notes in int64 \(1,\) an op of 0..32767"):
            eager.check_finite(first, x, op, step(0, 1))  # type: ignore[arg-type]
