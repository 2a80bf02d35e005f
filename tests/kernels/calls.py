"""Runs one op in C or in NumPy, and compares what came out."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellm.ops import native
from edgellm.ops.interface import Activation, CheckingOps, Step
from edgellm.ops.reference import Reference
from tests.kernels.space import SPARE_ROWS, Space

Array = npt.NDArray[Any]
Results = dict[str, Array]


class Call(Protocol):
    """One op with its inputs: a dataclass whose fields are what a failure shows."""

    def run(self, ops: CheckingOps, space: Space) -> Results:
        """Lay the inputs out in space, run the op, and give what it wrote."""


@cache
def pool(threads: int) -> native.Pool:
    """One pool for each number of threads, for all tests of a process."""
    return native.Pool(threads)


def step(position: int, n_tokens: int, n_outputs: int = 0) -> Step:
    """A step that is set."""
    made = Step()
    made.set(position, n_tokens, n_outputs)
    return made


def written(out: Activation) -> Results:
    """The four arrays of quantized rows, without the spare ones."""
    return {name: getattr(out, name)[:-SPARE_ROWS] for name in ("codes", "scales", "offsets", "scaled_sums")}


def native_results(call: Call, isa: str, threads: int = 1, shift: int = 0) -> Results:
    """What the kernel of that instruction set gives; it wrote nothing else."""
    space = Space(shift)
    results = call.run(native.Eager(isa, pool(threads)), space)
    space.check()
    return results


def reference_results(call: Call) -> Results:
    """What NumPy gives."""
    space = Space()
    results = call.run(Reference(), space)
    space.check()
    return results


def assert_same_bits(call: object, expected: Results, got: Results) -> None:
    """Every element has the same bits; a NaN may be any NaN."""
    for name, wanted in expected.items():
        found = got[name]
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        differs = _bits(found) != _bits(wanted)
        if wanted.dtype.kind == "f":
            differs &= ~(np.isnan(found) & np.isnan(wanted))
        assert not differs.any(), _report(call, name, differs, wanted, found)


def assert_within(call: object, name: str, expected: Array, got: Array, bound: Array) -> None:
    """|got - expected| <= bound, element by element."""
    distance = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    beyond = ~(distance <= bound)
    assert not beyond.any(), (
        f"{_report(call, name, beyond, expected, got)}\nbound:    {np.broadcast_to(bound, beyond.shape)[beyond][0]:.3g}"
    )


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def _report(call: object, name: str, wrong: npt.NDArray[np.bool_], expected: Array, got: Array) -> str:
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    wanted, found = (f"{array[at]!r} (bits {_bits(array)[at]:#x})" for array in (expected, got))
    count = f"{name}: {wrong.sum()} of {wrong.size} elements, the first at {at}"
    with np.printoptions(threshold=64, edgeitems=4):
        return f"{count}\nexpected: {wanted}\ngot:      {found}\ninputs:   {call}"
