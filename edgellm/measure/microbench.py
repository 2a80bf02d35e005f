"""Single kernels, timed as a model runs them: on weights that come from memory, not from a cache that the last call filled.

A bench is a plan that calls one kernel many times, each time on weights or a key/value cache of its own, which together fill a working
set. Their content is random, and repeats itself after a few tiles: no kernel's time depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import Scheme
from edgellm.measure.synthetic import random_matrix
from edgellm.ops import native
from edgellm.ops.interface import (
    KEY_TILE,
    TILE,
    Activation,
    CacheLayer,
    GateActivation,
    Layout,
    LookupRoom,
    Ops,
    PackedMatrix,
    Partials,
    Step,
    packed_bytes,
)
from edgellm.ops.reference import quantize_rows
from edgellm.runtime.workspace import Arena, aligned, lookup_room_bytes, new_activation, new_lookup_room

F32 = npt.NDArray[np.float32]
Call = Callable[[Ops, Step], None]

WORKING_SET = 64 * 2**20
"""Bytes: more than the caches of a small machine hold."""
CALLS = 32
"""Of a kernel that reads neither weights nor a cache: about as many as a model has layers."""


@dataclass(frozen=True)
class Setting:
    """What a kernel is run with: n_tokens after `position` cached ones."""

    isa: str
    n_tokens: int = 1
    position: int = 0
    threads: int = 1


class KernelBench:
    """Calls of one kernel, recorded. `kernel` and `shape` are what `edgellm inspect --plan` calls it; the counts are of a whole round."""

    def __init__(self, setting: Setting, calls: Iterable[Call], pool: native.Pool | None = None) -> None:
        recorder, step = native.Recorder(setting.isa), Step()
        step.set(setting.position, setting.n_tokens, setting.n_tokens)
        for call in calls:
            call(recorder, step)
        self._plan, self._pool, self._step = recorder.plan, pool or native.Pool(setting.threads), step
        ops = self._plan.ops
        self.kernel, self.shape = ops[-1].kernel, ops[-1].work.shape
        self.calls = sum(op.kernel == self.kernel for op in ops)
        self.streamed_bytes = sum(op.work.streamed_bytes(step) for op in ops)
        self.operations = sum(op.work.operations(step) for op in ops)

    def run(self) -> None:
        """One round: every call once."""
        self._plan.run(self._pool, self._step)


def matmul(
    setting: Setting,
    scheme: Scheme,
    rows: int,
    cols: int,
    layout: Layout = "multiply-add",
    working_set: int = WORKING_SET,
    sharing: int = 0,
    pool: native.Pool | None = None,
) -> KernelBench:
    """Quantized activations [L, cols] times matrices [rows, cols] in a layout.

    sharing: if not 0, so many matrices at a time are multiplied with vectors that were normed for them, and tabulated where they are
    looked up: what that takes is then in the time. pool: what runs it, of setting.threads; if not given, the bench has its own.
    """
    tile = _random_tile(scheme, cols, layout)
    room = new_lookup_room(Arena(lookup_room_bytes(cols, [tile], setting.threads)), cols, [tile], setting.threads)
    x, out = _activation(setting.n_tokens, cols, room), _normal(setting.n_tokens, rows)
    source, ones, numbers = _normal(setting.n_tokens, cols), np.ones(cols, np.float32), count()
    parts = packed_bytes(scheme, rows, cols)
    copies = max(1, working_set // sum(parts))
    arena = Arena(copies * sum(map(aligned, parts)), huge_pages=True)

    def call(ops: Ops, step: Step) -> None:
        if sharing and next(numbers) % sharing == 0:
            ops.rmsnorm_quantize(x, source, ones, 1e-5, step)
        codes, scales = arena.empty((parts[0],), np.uint8), arena.empty((parts[1] // 2,), np.float16)
        codes[:], scales[:] = np.resize(tile.codes, codes.shape), np.resize(tile.scales, scales.shape)
        ops.matmul(out, x, PackedMatrix(scheme, rows, cols, codes, scales, layout), step)

    return KernelBench(setting, [call] * copies, pool)


def attention(
    setting: Setting, heads: int, kv_heads: int, head_dim: int, working_set: int = WORKING_SET, window: int | None = None
) -> KernelBench:
    """Queries [L, heads, head_dim] on float16 caches, of which they see a window."""
    q, out = (_normal(setting.n_tokens, heads, head_dim) for _ in range(2))
    context = -(-(setting.position + setting.n_tokens) // KEY_TILE) * KEY_TILE
    blocks, arrived = Partials.shapes(heads, kv_heads, head_dim, context)
    scratch = Partials(np.zeros(blocks, np.float32), np.zeros(arrived, np.int32))
    cached = _normal(kv_heads, context, head_dim)
    copies = max(1, working_set // cached.nbytes)
    arena = Arena(copies * aligned(cached.nbytes))

    def call(ops: Ops, step: Step) -> None:
        keys = arena.empty((kv_heads, context // KEY_TILE, head_dim, KEY_TILE), np.float16)
        values = arena.empty(cached.shape, np.float16)
        keys[:], values[:] = cached.reshape(keys.shape), cached
        ops.attention(out, q, CacheLayer(keys, values), scratch, head_dim**-0.5, step, window)

    return KernelBench(setting, [call] * copies)


def rmsnorm(setting: Setting, heads: int, head_dim: int) -> KernelBench:
    """Of queries [L, heads, head_dim]."""
    x, weight = _normal(setting.n_tokens, heads, head_dim), _normal(head_dim)
    return KernelBench(setting, [lambda ops, step: ops.rmsnorm(x, weight, 1e-5, step)] * CALLS)


def rmsnorm_add(setting: Setting, cols: int) -> KernelBench:
    """Of vectors [L, cols]."""
    out, x, weight = _normal(setting.n_tokens, cols), _normal(setting.n_tokens, cols), _normal(cols)
    return KernelBench(setting, [lambda ops, step: ops.rmsnorm_add(out, x, weight, 1e-5, step)] * CALLS)


def rmsnorm_quantize(setting: Setting, cols: int) -> KernelBench:
    """Of vectors [L, cols]."""
    out, x, weight = _activation(setting.n_tokens, cols), _normal(setting.n_tokens, cols), _normal(cols)
    return KernelBench(setting, [lambda ops, step: ops.rmsnorm_quantize(out, x, weight, 1e-5, step)] * CALLS)


def quantize(setting: Setting, cols: int) -> KernelBench:
    """Of vectors [L, cols]."""
    out, x = _activation(setting.n_tokens, cols), _normal(setting.n_tokens, cols)
    return KernelBench(setting, [lambda ops, step: ops.quantize(out, x, step)] * CALLS)


def gate_quantize(setting: Setting, cols: int, activation: GateActivation = "silu") -> KernelBench:
    """Of vectors [L, cols]."""
    out, gate, up = _activation(setting.n_tokens, cols), _normal(setting.n_tokens, cols), _normal(setting.n_tokens, cols)
    return KernelBench(setting, [lambda ops, step: ops.gate_quantize(out, gate, up, activation, step)] * CALLS)


def relu2_gate(setting: Setting, cols: int) -> KernelBench:
    """Of vectors [L, cols]; the gates are 1, so that what is gated again and again keeps its size."""
    gate, up = np.ones((setting.n_tokens, cols), np.float32), _normal(setting.n_tokens, cols)
    return KernelBench(setting, [lambda ops, step: ops.relu2_gate(gate, up, step)] * CALLS)


def add_bias(setting: Setting, cols: int) -> KernelBench:
    """To vectors [L, cols]."""
    x, bias = _normal(setting.n_tokens, cols), _normal(cols)
    return KernelBench(setting, [lambda ops, step: ops.add_bias(x, bias, step)] * CALLS)


def rope(setting: Setting, heads: int, head_dim: int) -> KernelBench:
    """Of queries [L, heads, head_dim]."""
    x, (cos, sin) = _normal(setting.n_tokens, heads, head_dim), _rotations(setting.position + setting.n_tokens, head_dim)
    return KernelBench(setting, [lambda ops, step: ops.rope(x, cos, sin, step)] * CALLS)


def cache_append(setting: Setting, kv_heads: int, head_dim: int) -> KernelBench:
    """Of keys and values [L, kv_heads, head_dim]."""
    k, v = (_normal(setting.n_tokens, kv_heads, head_dim) for _ in range(2))
    context = -(-(setting.position + setting.n_tokens) // KEY_TILE) * KEY_TILE
    cos, sin = _rotations(context, head_dim)
    keys = np.zeros((kv_heads, context // KEY_TILE, head_dim, KEY_TILE), np.float16)
    values = np.zeros((kv_heads, context, head_dim), np.float16)
    return KernelBench(setting, [lambda ops, step: ops.cache_append(CacheLayer(keys, values), k, v, cos, sin, step)] * CALLS)


def _normal(*shape: int) -> F32:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _rotations(context: int, head_dim: int) -> tuple[F32, F32]:
    """Cosines and sines of any angles: what is rotated in place again and again keeps its length."""
    angles = _normal(context, head_dim // 2)
    return np.cos(angles), np.sin(angles)


def _activation(length: int, cols: int, lookup: LookupRoom | None = None) -> Activation:
    made = replace(new_activation(Arena(length * (2 * cols + 256)), length, cols), lookup=lookup)
    quantize_rows(made, _normal(length, cols).astype(np.float64))
    return made


def _random_tile(scheme: Scheme, cols: int, layout: Layout) -> PackedMatrix:
    code_bytes, scale_bytes = packed_bytes(scheme, TILE, cols)
    matrix = random_matrix("tile", scheme, TILE, cols)
    return native.pack(matrix, np.zeros(code_bytes, np.uint8), np.zeros(scale_bytes // 2, np.float16), layout)
