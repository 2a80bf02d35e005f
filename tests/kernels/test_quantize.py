"""Quantization to int8 and the two ops that end in it: against scalar C, bit for bit, and against what a code means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgellm.formats.matrix import BLOCK
from edgellm.ops import native
from edgellm.ops.interface import GATE_ACTIVATIONS, GateActivation, Ops
from tests.kernels import bounds
from tests.kernels.calls import Call, Results, assert_same_bits, assert_within, native_results, reference_results, step, written
from tests.kernels.data import F32, NASTY, normal, sprinkled
from tests.kernels.space import Space

F64 = npt.NDArray[np.float64]
COLS = [32, 64, 96, 160, 512, 544, 576, 1536]  # 512: as many blocks as are handled at once

every_activation = pytest.mark.parametrize("activation", GATE_ACTIVATIONS)
per_token_or_block = pytest.mark.parametrize("per_token", [False, True], ids=["block", "token"])


@dataclass(frozen=True)
class Quantize:
    """out = x in int8."""

    x: F32
    per_token: bool = False

    def run(self, ops: Ops, space: Space) -> Results:
        out = space.activation_output(*self.x.shape, per_token=self.per_token)
        ops.quantize(out, space.input(self.x), step(0, len(self.x)))
        return written(out) | {"exact": out.exact[:-1] if out.exact is not None else self.x}


@dataclass(frozen=True)
class Norm:
    """out = weight x / rms(x), of the last n_outputs rows where that is given."""

    x: F32
    weight: F32
    eps: float = 1e-5
    n_outputs: int | None = None
    per_token: bool = False

    def run(self, ops: Ops, space: Space) -> Results:
        length, cols = self.x.shape
        rows = length if self.n_outputs is None else self.n_outputs
        out = space.activation_output(rows, cols, per_token=self.per_token)
        at = step(0, length, rows)
        ops.rmsnorm_quantize(out, space.input(self.x), space.input(self.weight), self.eps, at, outputs_only=self.n_outputs is not None)
        assert out.exact is not None
        return written(out) | {"exact": out.exact[:-1]}


@dataclass(frozen=True)
class Gate:
    """out = activation(gate) up."""

    gate: F32
    up: F32
    activation: GateActivation = "silu"
    per_token: bool = False

    def run(self, ops: Ops, space: Space) -> Results:
        out = space.activation_output(*self.gate.shape, per_token=self.per_token)
        ops.gate_quantize(out, space.input(self.gate), space.input(self.up), self.activation, step(0, len(self.gate)))
        assert out.exact is not None
        return written(out) | {"exact": out.exact[:-1]}


def assert_codes_mean(call: Call, exact: F64, got: Results, off: F64) -> None:
    """scale * code is exact to half a step, where what was quantized lies within `off` of exact; the sums are those of the codes.

    Roundings of the quantization itself: |x| / 127 for the scale, 127 / |x| and its product with x for the code, which has at most
    127 times as much, and half a step where it is rounded to an integer.
    """
    length, cols = exact.shape
    count = got["scales"].shape[1]
    groups = (length, count, cols // count)
    largest = np.abs(exact).reshape(groups).max(axis=2)
    far = off.reshape(groups).max(axis=2)
    assert_within(call, "scales", largest / 127, got["scales"], far / 127 + bounds.gamma(2) * largest / 127 + bounds.TINY)
    scales = np.repeat(got["scales"].astype(np.float64), cols // count, axis=1)
    half_step = scales * (0.5 + 127 * bounds.gamma(4)) + off + np.where(scales < 1e-32, 1e-30, 0)
    assert_within(call, "scale * code", exact, scales * got["codes"], half_step)
    sums = got["codes"].reshape(length, cols // BLOCK, BLOCK).sum(axis=2, dtype=np.int32)
    assert_same_bits(call, {"offsets": -8 * sums, "scaled_sums": got["scales"] * sums.astype(np.float32)}, got)


def bits(results: Results) -> Results:
    """What a kernel writes: the reference's unquantized rows are not among it."""
    return {name: array for name, array in results.items() if name != "exact"}


def check(call: Quantize | Norm | Gate, isa: str, relative: float | F64, threads: int = 1, absolute: F64 | None = None) -> None:
    got = native_results(call, isa, threads)
    assert_same_bits(call, bits(native_results(call, "scalar")), got)
    exact = reference_results(call)["exact"].astype(np.float64)
    assert_codes_mean(call, exact, got, (relative + bounds.U) * np.abs(exact) + (0 if absolute is None else absolute))


def random_quantize(cols: int, length: int, per_token: bool = False) -> Quantize:
    return Quantize(normal(np.random.default_rng([cols, length]), length, cols), per_token)


def random_norm(cols: int, length: int, per_token: bool = False, n_outputs: int | None = None) -> Norm:
    rng = np.random.default_rng([cols, length])
    return Norm(normal(rng, length, cols, size=3), normal(rng, cols), n_outputs=n_outputs, per_token=per_token)


def random_gate(cols: int, length: int, per_token: bool = False, activation: GateActivation = "silu", size: float = 4) -> Gate:
    rng = np.random.default_rng([cols, length])
    return Gate(normal(rng, length, cols, size=size), normal(rng, length, cols), activation, per_token)


MAKERS: tuple[Callable[..., Call], ...] = (random_quantize, random_norm, random_gate, partial(random_gate, activation="gelu_pytorch_tanh"))


@per_token_or_block
@pytest.mark.parametrize("cols", COLS)
def test_quantize(isa: str, cols: int, per_token: bool) -> None:
    for length in (1, 2, 3, 17, 129):
        check(random_quantize(cols, length, per_token), isa, relative=0)


@per_token_or_block
def test_quantize_is_the_reference_bit_for_bit(isa: str, per_token: bool) -> None:
    """No sum is involved, so NumPy's float32 gives the very same codes and scales."""
    call = random_quantize(576, 9, per_token)
    assert_same_bits(call, bits(reference_results(call)), native_results(call, isa))


@per_token_or_block
@pytest.mark.parametrize("cols", COLS)
def test_rmsnorm(isa: str, cols: int, per_token: bool) -> None:
    for length in (1, 2, 3, 17, 129):
        check(random_norm(cols, length, per_token), isa, bounds.norm(cols))


@pytest.mark.parametrize("n_outputs", [0, 1, 3, 7])
def test_rmsnorm_of_the_last_rows_only(isa: str, n_outputs: int) -> None:
    call = random_norm(576, 7, n_outputs=n_outputs)
    check(call, isa, bounds.norm(576))
    last = Norm(call.x[7 - n_outputs :], call.weight)
    assert_same_bits(call, bits(native_results(last, isa)), native_results(call, isa))


@every_activation
@per_token_or_block
@pytest.mark.parametrize("cols", COLS)
def test_gate(isa: str, cols: int, per_token: bool, activation: GateActivation) -> None:
    for length in (1, 2, 3, 17, 129):
        call = random_gate(cols, length, per_token, activation)
        check(call, isa, bounds.gate(call.gate, activation))


@every_activation
def test_gate_beyond_the_limits_of_exp(isa: str, activation: GateActivation) -> None:
    call = random_gate(96, 9, activation=activation, size=60)
    beyond = np.where(bounds.exponent(call.gate, activation) < -87, np.abs(call.gate * call.up.astype(np.float64)) * np.exp(-87.0), 0)
    with np.errstate(over="ignore"):
        check(call, isa, bounds.gate(call.gate, activation), absolute=beyond)


@every_activation
def test_every_size_of_gate(isa: str, activation: GateActivation) -> None:
    """One element a group, so that none is rounded away beside a larger one."""
    sizes = np.concatenate([np.linspace(-6, 6, 3001), np.geomspace(1e-30, 6, 500), -np.geomspace(1e-30, 6, 500)]).astype(np.float32)
    gate = np.zeros((len(sizes), BLOCK), np.float32)
    gate[:, 5] = sizes
    call = Gate(gate, np.ones_like(gate), activation)
    check(call, isa, bounds.gate(gate, activation))


@per_token_or_block
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("length", [1, 4, 7])
def test_threads_change_no_bit(isa: str, threads: int, length: int, per_token: bool) -> None:
    for make in MAKERS:
        call = make(160, length, per_token)
        assert_same_bits(call, bits(native_results(call, "scalar")), native_results(call, isa, threads))


@per_token_or_block
@pytest.mark.parametrize("shift", [1, 2, 3, 5, 8])
def test_buffers_need_no_more_than_their_elements_alignment(isa: str, shift: int, per_token: bool) -> None:
    for make in MAKERS:
        call = make(96, 3, per_token)
        assert_same_bits(call, bits(native_results(call, "scalar")), native_results(call, isa, shift=shift))


@per_token_or_block
def test_nasty_floats_give_the_same_bits(isa: str, per_token: bool) -> None:
    """Infinities, NaN, zeros of both signs and subnormals, alone in a group, everywhere in it, and mixed."""
    rng = np.random.default_rng(13)
    rows = [np.full(64, value, np.float32) for value in NASTY]
    for value in NASTY:
        for place in (0, 7, 15, 16, 31, 33):
            row = normal(rng, 64)
            row[place] = value
            rows.append(row)
    x = np.stack([*rows, *sprinkled(rng, 40, 64)])
    calls: list[Call] = [
        Quantize(x, per_token),
        Norm(x, normal(rng, 64), per_token=per_token),
        Norm(x, sprinkled(rng, 64), per_token=per_token),
        *(Gate(x, x[::-1].copy(), activation, per_token) for activation in GATE_ACTIVATIONS),
        *(Gate(x, normal(rng, *x.shape), activation, per_token) for activation in GATE_ACTIVATIONS),
    ]
    for call in calls:
        assert_same_bits(call, bits(native_results(call, "scalar")), native_results(call, isa))


@per_token_or_block
@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 9e-31, 1.1e-30, 1e-20, 1e20, 3.4e38])
def test_a_group_of_any_size_keeps_its_meaning(isa: str, largest: float, per_token: bool) -> None:
    """Tiny groups become zeros, which is within 1e-30 of them; none overflows."""
    x = np.linspace(-1, 1, 96, dtype=np.float32).reshape(1, 96) * np.float32(largest)
    with np.errstate(over="ignore", under="ignore"):
        check(Quantize(x, per_token), isa, relative=0)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 9e-31])
def test_a_tiny_group_has_codes_of_zero(isa: str, largest: float) -> None:
    """127 / max|x| would overflow, and its product with the zeros among them be NaN."""
    x = np.zeros((1, 32), np.float32)
    x[0, ::2] = largest
    assert not native_results(Quantize(x), isa)["codes"].any()


def test_ties_round_to_even(isa: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :8] = 127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5  # 127 makes the scale 1
    assert native_results(Quantize(x), isa)["codes"][0, :8].tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


@pytest.mark.parametrize("isa_under_test", native.isas_available()[1:])
@settings(deadline=None, derandomize=True, max_examples=200)
@given(x=arrays.arrays(np.float32, (2, 64), elements=st.floats(width=32)), per_token=st.booleans())
def test_any_floats_give_the_same_bits(isa_under_test: str, x: F32, per_token: bool) -> None:
    gates = [Gate(x, x[::-1].copy(), activation, per_token) for activation in GATE_ACTIVATIONS]
    calls: list[Call] = [Quantize(x, per_token), Norm(x, x[1], per_token=per_token), *gates]
    for call in calls:
        assert_same_bits(call, bits(native_results(call, "scalar")), native_results(call, isa_under_test))
