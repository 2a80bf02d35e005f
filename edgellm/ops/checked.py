"""Ops that look, after each op, whether what it wrote is finite. Every result has to be looked at: quantizing and attention make
finite numbers of NaN, so one that is not noticed at once may never be.
"""

from __future__ import annotations

from typing import NamedTuple

from edgellm.ops.interface import F32, I32, I64, Activation, CacheLayer, CheckingOps, GateActivation, PackedMatrix, Partials, Step

_NOTHING = (1 << 63) - 1


class Finding(NamedTuple):
    """The first value of a step that is not finite: what op wrote it, counted from 0, for what token of the step, and where in its row."""

    op: int
    token: int
    element: int


def forget(first: I64) -> None:
    """Have nothing found: before each step. first: int64 [1], which the checks note in."""
    first[0] = _NOTHING


def finding(first: I64) -> Finding | None:
    """What was found since `forget`."""
    word = int(first[0])
    return None if word == _NOTHING else Finding(word >> 48, word >> 32 & 0xFFFF, word & 0xFFFFFFFF)


class Checked:
    """`interface.Ops`, each followed by a check of what it wrote, for one forward pass."""

    def __init__(self, ops: CheckingOps, first: I64) -> None:
        self._ops, self._first = ops, first
        self._count = 0

    def _number(self) -> int:
        self._count += 1
        return self._count - 1

    def _check(self, x: F32, step: Step, outputs_only: bool = False) -> None:
        rows = x.reshape(len(x), -1)
        self._ops.check_finite(self._first, rows, self._number(), step, outputs_only)

    def embed(self, out: F32, tokens: I32, table: PackedMatrix, step: Step, scale: float = 1.0) -> None:
        """As in `interface.Ops`."""
        self._ops.embed(out, tokens, table, step, scale)
        self._check(out, step)

    def rmsnorm(self, x: F32, weight: F32, eps: float, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.rmsnorm(x, weight, eps, step)
        self._check(x, step)

    def rmsnorm_add(self, out: F32, x: F32, weight: F32, eps: float, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.rmsnorm_add(out, x, weight, eps, step)
        self._check(out, step)

    def rmsnorm_quantize(self, out: Activation, x: F32, weight: F32, eps: float, step: Step, outputs_only: bool = False) -> None:
        """As in `interface.Ops`."""
        self._ops.rmsnorm_quantize(out, x, weight, eps, step, outputs_only)
        self._check(out.scales, step, outputs_only)

    def quantize(self, out: Activation, x: F32, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.quantize(out, x, step)
        self._check(out.scales, step)

    def matmul(self, out: F32, x: Activation, w: PackedMatrix, step: Step, accumulate: bool = False, outputs_only: bool = False) -> None:
        """As in `interface.Ops`."""
        self._ops.matmul(out, x, w, step, accumulate, outputs_only)
        self._check(out, step, outputs_only)

    def add_bias(self, x: F32, bias: F32, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.add_bias(x, bias, step)
        self._check(x, step)

    def rope(self, x: F32, cos: F32, sin: F32, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.rope(x, cos, sin, step)
        self._check(x, step)

    def cache_append(self, cache: CacheLayer, k: F32, v: F32, cos: F32, sin: F32, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.cache_append(cache, k, v, cos, sin, step)
        self._ops.check_cache(self._first, cache, self._number(), step)

    def attention(
        self, out: F32, q: F32, cache: CacheLayer, scratch: Partials, scale: float, step: Step, window: int | None = None
    ) -> None:
        """As in `interface.Ops`."""
        self._ops.attention(out, q, cache, scratch, scale, step, window)
        self._check(out, step)

    def gate_quantize(self, out: Activation, gate: F32, up: F32, activation: GateActivation, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.gate_quantize(out, gate, up, activation, step)
        self._check(out.scales, step)

    def relu2_gate(self, gate: F32, up: F32, step: Step) -> None:
        """As in `interface.Ops`."""
        self._ops.relu2_gate(gate, up, step)
        self._check(up, step)
