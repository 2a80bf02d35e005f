"""Recording and replaying: the same bits as running op by op, barriers where ops depend on each other and nowhere else."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from ctypes.util import find_library
from typing import Any

import numpy as np
import pytest

from edgellm.formats.matrix import INT8
from edgellm.ops import native
from edgellm.ops.interface import Ops
from tests.emulated.library import Library, emulated_isas
from tests.kernels import space
from tests.kernels.calls import assert_same_bits, pool, step
from tests.kernels.chain import LENGTH, Chain
from tests.kernels.data import random_matrix
from tests.kernels.space import Space

UPWARD = {"x86_64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}  # FE_UPWARD


class Tape:
    """Stands in for a plan and notes only which ops wait."""

    def __init__(self) -> None:
        self.barriers: list[bool] = []

    def append(self, op: Any, *_: Any) -> None:
        self.barriers.append(bool(op.barrier))


def barriers(call: Callable[[Ops], None]) -> list[bool]:
    """Which of the ops that `call` makes wait for those before."""
    recorder = native.Recorder("scalar")
    tape = Tape()
    recorder.plan = tape  # type: ignore[assignment]
    call(recorder)
    return tape.barriers


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_replay_gives_the_bits_of_running_op_by_op(isa: str, threads: int) -> None:
    chain = Chain()
    chain.begin()
    chain.call(native.Eager("scalar", pool(1)))
    expected = chain.results()
    plan = chain.record(isa)
    assert [op.name for op in plan.ops] == list(Chain.OPS)
    for _ in range(3):
        assert_same_bits("chain", expected, chain.replayed(plan, pool(threads)))
    chain.begin()
    chain.call(native.Eager(isa, pool(threads)))
    assert_same_bits("chain", expected, chain.results())


def test_a_plan_reads_the_step_at_every_run(isa: str) -> None:
    """Fixed when recorded: buffers. Read anew: how many tokens there are."""
    chain = Chain()
    plan = chain.record(isa)
    whole = chain.replayed(plan, pool(1))["hidden"]
    chain.step.set(0, LENGTH - 2, 0)
    part = chain.replayed(plan, pool(1))["hidden"]
    np.testing.assert_array_equal(part[:-2], whole[:-2])
    np.testing.assert_array_equal(part[-2:], chain.start[-2:])


def test_a_plan_keeps_its_buffers_alive(isa: str) -> None:
    room, at = Space(), step(0, 2)
    recorder = native.Recorder(isa)
    x = space.allocate(256).view(np.float32).reshape(2, 32)
    x[:] = 1
    out = room.activation_output(2, 32)
    recorder.quantize(out, x, at)
    del x
    for _ in range(3):
        np.full((2, 32), 7, np.float32)  # would take the freed buffer's place
    recorder.plan.run(pool(1), at)
    np.testing.assert_array_equal(out.scales[:2, 0], np.float32(1) / np.float32(127))


def test_a_plan_grows(isa: str) -> None:
    """Beyond what C reserves at first."""
    space, at = Space(), step(0, 1)
    out, w = space.output(1, 3), space.matrix(random_matrix(np.random.default_rng(0), INT8, 3, 32))
    x = space.activation(np.ones((1, 32), np.int8), np.ones((1, 1), np.float32))
    recorder = native.Recorder(isa)
    for _ in range(300):
        recorder.matmul(out, x, w, at, accumulate=True)
    out[:1] = 0
    recorder.plan.run(pool(2), at)
    once = space.output(1, 3)
    native.Eager(isa, pool(1)).matmul(once, x, w, at)
    total = np.zeros(3, np.float32)
    for _ in range(300):
        total += once[0]
    assert_same_bits("300 matmuls", {"out": total}, {"out": out[0]})


def test_an_empty_plan_runs() -> None:
    plan = native.Plan("scalar")
    plan.run(pool(2), step(0, 1))
    assert len(plan) == 0
    assert plan.profile(pool(2), step(0, 1)).tolist() == []


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_times_every_op_and_gives_the_same_bits(isa: str, threads: int) -> None:
    chain = Chain()
    plan = chain.record(isa)
    expected = chain.replayed(plan, pool(1))
    chain.begin()
    times = plan.profile(pool(threads), chain.step)
    assert_same_bits("chain", expected, chain.results())
    assert times.shape == (len(Chain.OPS),)
    assert (times > 0).all()


def test_ops_wait_only_for_what_they_need() -> None:
    assert tuple(barriers(Chain().call)) == Chain.BARRIERS


def test_hazards() -> None:
    """Reading what was written, writing what was written, and writing what was read make an op wait; reading twice does not."""
    space, at = Space(), step(0, 1)
    matrices = [space.matrix(random_matrix(np.random.default_rng(i), INT8, 32, 32)) for i in range(2)]
    a, b, c = (space.output(1, 32) for _ in range(3))
    p, q = (space.activation_output(1, 32) for _ in range(2))

    def read_after_write(ops: Ops) -> None:
        ops.quantize(p, a, at)
        ops.matmul(b, p, matrices[0], at)

    def write_after_write(ops: Ops) -> None:
        ops.quantize(p, a, at)
        ops.quantize(p, b, at)

    def write_after_read(ops: Ops) -> None:
        ops.quantize(p, a, at)
        ops.matmul(a, q, matrices[0], at)

    def read_after_read(ops: Ops) -> None:
        ops.quantize(p, a, at)
        ops.quantize(q, a, at)

    def a_barrier_settles_what_came_before(ops: Ops) -> None:
        ops.quantize(p, a, at)
        ops.matmul(b, p, matrices[0], at)
        ops.matmul(c, p, matrices[1], at)  # p was written before the barrier

    def accumulating_twice(ops: Ops) -> None:
        ops.matmul(b, p, matrices[0], at)
        ops.matmul(b, p, matrices[1], at, accumulate=True)

    def parts_of_one_array(ops: Ops) -> None:
        both = np.zeros((2, 32), np.float32)
        ops.matmul(both[:1], p, matrices[0], at)
        ops.matmul(both[1:], p, matrices[1], at)
        ops.quantize(q, both, at)

    def in_place(ops: Ops) -> None:
        bias, head = np.zeros(32, np.float32), np.zeros(16, np.float32)
        ops.matmul(b, p, matrices[0], at)
        ops.matmul(c, p, matrices[1], at)
        ops.add_bias(b, bias, at)
        ops.add_bias(c, bias, at)  # another array
        ops.rmsnorm(b.reshape(2, 2, 16), head, 1e-6, at)
        ops.rmsnorm_add(a, c, bias, 1e-6, at)  # c was written before the barrier
        ops.relu2_gate(a, c, at)

    assert barriers(read_after_write) == [False, True]
    assert barriers(write_after_write) == [False, True]
    assert barriers(write_after_read) == [False, True]
    assert barriers(read_after_read) == [False, False]
    assert barriers(a_barrier_settles_what_came_before) == [False, True, False]
    assert barriers(accumulating_twice) == [False, True]
    assert barriers(parts_of_one_array) == [False, False, True]
    assert barriers(in_place) == [False, False, True, False, True, False, True]


def round_upward_here(isa: str, upward: bool) -> bool:
    """Set this thread's rounding mode, upward or to nearest; whether it was upward before."""
    libm = ctypes.CDLL(find_library("m"))
    was_upward: bool = libm.fegetround() == UPWARD[platform.machine()]
    libm.fesetround(UPWARD[platform.machine()] if upward else 0)
    return was_upward


def test_the_rounding_mode_of_the_caller_changes_nothing(isa: str, library: Library | None) -> None:
    """And is given back: another library in the process may want it."""
    chain = Chain()
    plan = chain.record(isa)
    expected = chain.replayed(plan, pool(1))
    round_upward = library.round_upward if library and isa in emulated_isas() else round_upward_here
    chain.begin()
    round_upward(isa, True)
    try:
        plan.run(pool(2), chain.step)
    finally:
        assert round_upward(isa, False)
    assert_same_bits("chain", expected, chain.results())
