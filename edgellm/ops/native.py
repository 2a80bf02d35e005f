"""The ops in C.

Each method checks its arguments and fills one `el_op`. `Recorder` appends it to a plan; `Eager` runs it at once, as a
plan of one op: one code path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError, NativeError
from edgellm.formats.matrix import BLOCK, QuantizedMatrix, Scheme
from edgellm.ops.compiled import CData, ffi, lib, pointer
from edgellm.ops.interface import (
    F16,
    F32,
    GATE_ACTIVATIONS,
    I32,
    I64,
    KEY_TILE,
    LOOKUP_TILES,
    MAX_HEAD_DIM,
    TABLE_BYTES,
    U8,
    Activation,
    CacheLayer,
    GateActivation,
    Layout,
    PackedMatrix,
    Partials,
    Step,
    packed_bytes,
)
from edgellm.ops.work import RecordedOp, Work

_Arrays = list[npt.NDArray[Any]]

ISAS: tuple[str, ...] = tuple(ffi.string(lib.el_isa_name(i)).decode() for i in range(lib.EL_ISA_COUNT))
"""Every instruction set that the project knows, slowest first."""

MAX_THREADS = 256
READ_BLOCK: int = lib.EL_READ_BLOCK
"""`read` takes a multiple of so many bytes."""

_OP_NAMES = {getattr(lib, f"EL_OP_{name.upper()}"): name for name in (
    "embed", "rmsnorm", "rmsnorm_add", "rmsnorm_quantize", "quantize", "matmul", "lookup", "add_bias", "rope", "cache_append", "attention",
    "gate_quantize", "relu2_gate", "check_finite", "check_cache", "lut8_tables", "lut8")}  # fmt: skip


_NO_KERNEL = -2
_NO_THREADS = "the threads could not be started again after a fork; ask for fewer threads"


def isas_available() -> tuple[str, ...]:
    """The instruction sets that this build and this processor can run, slowest first."""
    return tuple(name for i, name in enumerate(ISAS) if lib.el_isa_supported(i))


def choose_isa(name: str | None = None) -> str:
    """`name`, else EDGELLM_ISA, else the best one available; NativeError if it can't run here."""
    asked = name or os.environ.get("EDGELLM_ISA") or isas_available()[-1]
    if asked not in ISAS:
        raise NativeError(f"instruction set {asked!r} is unknown; known: {', '.join(ISAS)}")
    if asked not in isas_available():
        why = "this processor can't run it" if lib.el_isa_compiled(ISAS.index(asked)) else "this build has no kernels for it"
        raise NativeError(f"instruction set {asked!r} was asked for, but {why}; available here: {', '.join(isas_available())}")
    return asked


def csrc_hash() -> str:
    """Hash of the C sources that the compiled module was built from."""
    return str(ffi.string(lib.el_csrc_hash()).decode())


def build_info() -> dict[str, str]:
    """The compiled module's origin: csrc_hash and compiler."""
    return {"csrc_hash": csrc_hash(), "compiler": ffi.string(lib.el_compiler()).decode()}


class Pool:
    """C threads that run plans together, the calling thread among them.

    may_shrink: while other processes keep its threads from running, runs have fewer, because waiting for those costs more.
    """

    def __init__(self, threads: int, may_shrink: bool = False) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise InvalidRequestError(f"threads must be between 1 and {MAX_THREADS}, not {threads}")
        self.threads = threads
        started = lib.el_pool_new(threads)
        if not started:
            raise NativeError(f"{threads} threads were asked for and the operating system refused to start them; ask for fewer")
        self.pointer = ffi.gc(started, lib.el_pool_free)
        if may_shrink:
            lib.el_pool_let_shrink(self.pointer)

    @property
    def team(self) -> int:
        """How many threads the next run has: `threads`, or fewer while the pool has shrunk."""
        return int(lib.el_pool_team(self.pointer))

    def thread_ids(self) -> list[int]:
        """What the operating system calls the threads, the calling one first; zeros where it has no such numbers."""
        ids = np.zeros(self.threads, np.int32)
        if lib.el_pool_thread_ids(self.pointer, pointer("int32_t *", ids)):
            raise NativeError(_NO_THREADS)
        return [int(thread) for thread in ids]


class Plan:
    """Recorded ops, replayed by one C call."""

    def __init__(self, isa: str) -> None:
        self.isa = isa
        made = lib.el_plan_new(ISAS.index(isa))
        if not made:
            raise NativeError(f"no plan could be made for {isa!r}: out of memory")
        self.pointer = ffi.gc(made, lib.el_plan_free)
        self._recorded: list[tuple[int, Work]] = []
        self.max_threads = MAX_THREADS
        """Of a pool that runs it: the fewest that the ops' scratch has room for."""
        self._buffers: list[Any] = []  # what the ops point to lives as long as the plan

    def __len__(self) -> int:
        return len(self._recorded)

    @property
    def ops(self) -> list[RecordedOp]:
        """What was recorded, in order."""
        isa = ISAS.index(self.isa)
        return [RecordedOp(_OP_NAMES[kind], ffi.string(lib.el_kernel_name(isa, kind)).decode(), work) for kind, work in self._recorded]

    def append(
        self, op: CData, work: Work, reads: Sequence[npt.NDArray[Any]], writes: Sequence[npt.NDArray[Any]], max_threads: int = MAX_THREADS
    ) -> None:
        """Add a filled `el_op`; the arrays that it reads and writes are kept alive."""
        if not all(array.flags.writeable for array in writes) or _overlap(reads, writes):
            raise InvalidRequestError(f"{_OP_NAMES[op.kind]}: results must go to writable arrays that are not among the inputs")
        failure = lib.el_plan_append(self.pointer, op)
        if failure == _NO_KERNEL:
            raise NativeError(f"instruction set {self.isa!r} has no kernel for {_OP_NAMES[op.kind]}; pack matrices as multiply-add")
        if failure:
            raise NativeError("the plan can't grow: out of memory")
        self._recorded.append((op.kind, work))
        self._buffers += [*reads, *writes]
        self.max_threads = min(self.max_threads, max_threads)

    def bind(self, pool: Pool, step: Step) -> CData:
        """What `replay` takes: the C arguments, converted once."""
        if pool.threads > self.max_threads:
            raise InvalidRequestError(f"the plan's scratch serves {self.max_threads} threads; the pool has {pool.threads}")
        return self.pointer, pool.pointer, pointer("el_step *", step.array), ffi.NULL

    def run(self, pool: Pool, step: Step) -> None:
        """Replay every op once for this step. The GIL is released meanwhile."""
        replay(self.bind(pool, step))

    def profile(self, pool: Pool, step: Step) -> npt.NDArray[np.int64]:
        """Replay with a barrier after each op; int64 [ops], nanoseconds each took."""
        times = np.zeros(len(self), np.int64)
        plan, threads, state, _ = self.bind(pool, step)
        replay((plan, threads, state, pointer("int64_t *", times)))
        return times


def replay(bound: CData) -> None:
    """Run a bound plan: the one call of the token loop."""
    if lib.el_plan_run(*bound):
        raise NativeError(_NO_THREADS)


def pack(matrix: QuantizedMatrix, codes: U8, scales: F16, layout: Layout = "multiply-add") -> PackedMatrix:
    """Arrange a row-major matrix into tiles, into the given flat buffers (sizes: `interface.packed_bytes`)."""
    rows, cols = matrix.shape
    scheme = matrix.scheme
    if cols % BLOCK or not rows or not cols:
        raise InvalidRequestError(f"no kernel takes a {rows} x {cols} matrix as {scheme}; columns must be a multiple of {BLOCK}")
    parts = [matrix.scales] if matrix.minimums is None else [matrix.scales, matrix.minimums]
    shape = scheme.scales_shape(rows, cols)
    if len(parts) != 1 + scheme.has_min or any(part.dtype != np.float16 or part.shape != shape for part in parts):
        found = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        raise InvalidRequestError(f"{rows} x {cols} as {scheme} has float16 {shape} scales (and minimums), not {found}")
    if layout == "lookup" and scheme.family == "int8":
        raise InvalidRequestError("int8 has no lookup layout: a table would need 256 entries; pack it as multiply-add")
    packed = PackedMatrix(scheme, rows, cols, codes, scales, layout)
    described = ffi.new("el_matrix *")
    _describe_matrix(described, packed)
    expected = lib.el_packed_codes_bytes(described), lib.el_packed_scales_bytes(described)
    if (codes.nbytes, scales.nbytes) != expected:
        raise InvalidRequestError(f"packing {rows} x {cols} as {scheme} needs {expected} bytes, not {(codes.nbytes, scales.nbytes)}")
    if scheme.group == "tensor":
        parts = [np.repeat(part, rows, axis=0) for part in parts]
    sources = [np.require(part, requirements=["C", "A"]) for part in (matrix.codes, *parts)]
    pointers = [pointer("uint8_t *", sources[0]), *(pointer("uint16_t *", part) for part in sources[1:])]
    minimums = pointers[2] if scheme.has_min else ffi.NULL
    lib.el_pack(described, pointers[0], pointers[1], minimums, pointer("uint8_t *", codes), pointer("uint16_t *", scales))
    return packed


def lock(array: npt.NDArray[Any]) -> None:
    """Bring the array's pages into memory and keep them there until they are unmapped; OSError if the system refuses."""
    _require_locked(lib.el_lock(pointer("void *", array), array.nbytes))


def lock_all() -> None:
    """The same for all that the process has mapped, and for what it maps from now on."""
    _require_locked(lib.el_lock_all())


def unlock_all() -> None:
    """Undo `lock_all`, and `lock` too."""
    lib.el_unlock_all()


def trim() -> None:
    """Give the heap's free memory back to the system, where the C library can."""
    lib.el_trim()


def _require_locked(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))


def exp(x: F32, isa: str) -> F32:
    """The kernels' own exp of float32 [n], for their tests."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty_like(x)
    if lib.el_exp(ISAS.index(isa), pointer("float *", x), pointer("float *", out), x.size):
        raise NativeError(f"the exp of {isa!r} can't run here; available: {', '.join(isas_available())}")
    return out


def read(data: U8, pool: Pool) -> int:
    """Read flat bytes once on all the pool's threads, for measurements of bandwidth: the exclusive or of their 64-bit words."""
    if data.nbytes % READ_BLOCK:
        raise InvalidRequestError(f"what is read must be a multiple of {READ_BLOCK} bytes, not {data.nbytes}")
    words = ffi.new("uint64_t *")
    if lib.el_read(pool.pointer, pointer("void *", data), data.nbytes, words):
        raise NativeError(_NO_THREADS)
    return int(words[0])


def spin(pool: Pool, iterations: int, chunks: int) -> I64:
    """The same work, `iterations` dependent multiplications, again and again on all the pool's threads at once, for measurements of what
    the machine does beside: the nanoseconds that it took each time, int64 [threads, chunks].
    """
    if iterations < 1 or chunks < 1:
        raise InvalidRequestError(f"at least one iteration and one chunk are needed, not {iterations} and {chunks}")
    chunk_ns = np.zeros((pool.threads, chunks), np.int64)
    if lib.el_spin(pool.pointer, iterations, chunks, pointer("int64_t *", chunk_ns)):
        raise NativeError(_NO_THREADS)
    return chunk_ns


def _check(name: str, array: npt.NDArray[Any], dtype: type, *tail: int) -> None:
    """The array has that dtype, and its last dimensions are `tail`; the first is the room for tokens."""
    if array.dtype != dtype or array.ndim != 1 + len(tail) or array.shape[1:] != tail:
        raise InvalidRequestError(
            f"{name}: expected {np.dtype(dtype).name} [{', '.join(map(str, ('L', *tail)))}], got {array.dtype} {array.shape}"
        )


def _check_vector(name: str, array: npt.NDArray[Any], size: int) -> None:
    if array.dtype != np.float32 or array.shape != (size,):
        raise InvalidRequestError(f"{name}: expected float32 [{size}], got {array.dtype} {array.shape}")


def _fill_matrix(field: CData, matrix: PackedMatrix) -> None:
    expected, found = packed_bytes(matrix.scheme, matrix.rows, matrix.cols), (matrix.codes.nbytes, matrix.scales.nbytes)
    if found != expected:
        raise InvalidRequestError(f"{matrix.rows} x {matrix.cols} packed as {matrix.scheme} has {expected} bytes, not {found}")
    _describe_matrix(field, matrix)
    field.codes, field.scales = pointer("uint8_t *", matrix.codes), pointer("uint16_t *", matrix.scales)


def _describe_matrix(field: CData, matrix: PackedMatrix) -> None:
    """All but the pointers."""
    field.scheme, field.rows, field.cols = _scheme_id(matrix.scheme), matrix.rows, matrix.cols
    field.layout = lib.EL_LOOKUP if matrix.layout == "lookup" else lib.EL_MULTIPLY_ADD
    field.group = min(matrix.scheme.group, matrix.cols) if isinstance(matrix.scheme.group, int) else matrix.cols


def _scheme_id(scheme: Scheme) -> int:
    name = f"EL_{scheme.family.upper()}{'_MIN' if scheme.has_min else ''}"
    return int(getattr(lib, name))


def _fill_activation(field: CData, a: Activation) -> None:
    cols = a.codes.shape[1]
    if cols % BLOCK:
        raise InvalidRequestError(f"activations of {cols} columns can't be quantized in blocks of {BLOCK}")
    _check("activation codes", a.codes, np.int8, cols)
    _check("activation scales", a.scales, np.float32, 1 if a.group == cols else cols // BLOCK)
    _check("activation offsets", a.offsets, np.int32, cols // BLOCK)
    _check("activation scaled_sums", a.scaled_sums, np.float32, cols // BLOCK)
    field.codes, field.scales = pointer("int8_t *", a.codes), pointer("float *", a.scales)
    field.offsets, field.scaled_sums = pointer("int32_t *", a.offsets), pointer("float *", a.scaled_sums)
    field.cols, field.group = cols, a.group
    if a.lookup:
        for kind, table in a.lookup.tables.items():
            _check(f"{kind} tables", table, np.uint8, TABLE_BYTES[kind])
            if len(table) != cols // BLOCK:
                raise InvalidRequestError(f"{kind} tables of {len(table)} blocks can't serve {cols} columns")
            field.tables[getattr(lib, f"EL_{kind.upper()}")] = pointer("uint8_t *", table)
        _check("tiles", a.lookup.tiles, np.uint8, a.lookup.tiles.shape[-1])
        field.tiles, field.tiles_bytes = pointer("uint8_t *", a.lookup.tiles), a.lookup.tiles.shape[1]


def _fill_matmul(args: CData, out: F32, x: Activation, w: PackedMatrix, accumulate: bool, outputs_only: bool) -> Work:
    _check("matmul: out", out, np.float32, w.rows)
    _check("matmul: x", x.codes, np.int8, w.cols)
    args.out, args.out_cols, args.accumulate, args.outputs_only = pointer("float *", out), w.rows, accumulate, outputs_only
    _fill_matrix(args.w, w)
    _fill_activation(args.x, x)
    return Work((w.rows, w.cols), w.scheme, weight_bytes=w.nbytes, per_token=w.rows * w.cols, outputs_only=outputs_only)


def _fill_cache(field: CData, cache: CacheLayer) -> None:
    heads, context, head_dim = cache.values.shape
    if cache.keys.shape != (heads, context // KEY_TILE, head_dim, KEY_TILE) or context % KEY_TILE or cache.keys.dtype != cache.values.dtype:
        raise InvalidRequestError(
            f"cache keys {cache.keys.shape} {cache.keys.dtype} don't match values {cache.values.shape} {cache.values.dtype}"
        )
    if cache.values.dtype not in (np.float16, np.float32):
        raise InvalidRequestError(f"a cache holds float16 or float32, not {cache.values.dtype}")
    _check_head_dim(head_dim)
    field.keys, field.values = pointer("void *", cache.keys), pointer("void *", cache.values)
    field.heads, field.head_dim, field.context = heads, head_dim, context
    field.is_f16 = cache.values.dtype == np.float16


def _fill_first(field: CData, first: I64, op: int) -> None:
    if first.dtype != np.int64 or first.shape != (1,) or not 0 <= op < 1 << 15:
        raise InvalidRequestError(f"a check notes in int64 (1,) an op of 0..32767, not {op} in {first.dtype} {first.shape}")
    field.first, field.op = pointer("int64_t *", first), op


def _check_head_dim(head_dim: int) -> None:
    if head_dim % 16 or not 16 <= head_dim <= MAX_HEAD_DIM:
        raise InvalidRequestError(f"the head size must be a multiple of 16 up to {MAX_HEAD_DIM}, not {head_dim}")


def _check_rotation(cos: F32, sin: F32, head_dim: int) -> None:
    """Tables of cos and sin, float32 [context, E/2]."""
    _check("cos", cos, np.float32, head_dim // 2)
    _check("sin", sin, np.float32, head_dim // 2)
    if len(cos) != len(sin):
        raise InvalidRequestError(f"cos has {len(cos)} positions and sin {len(sin)}")


def _parts(*buffers: Activation | CacheLayer | PackedMatrix | npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The arrays that the buffers are made of."""
    arrays: list[npt.NDArray[Any]] = []
    for buffer in buffers:
        if isinstance(buffer, Activation):
            arrays += [buffer.codes, buffer.scales, buffer.offsets, buffer.scaled_sums]
            arrays += [*buffer.lookup.tables.values(), buffer.lookup.tiles] if buffer.lookup else []
        elif isinstance(buffer, CacheLayer):
            arrays += [buffer.keys, buffer.values]
        elif isinstance(buffer, PackedMatrix):
            arrays += [buffer.codes, buffer.scales]
        else:
            arrays.append(buffer)
    return arrays


def _lookup_threads(x: Activation, w: PackedMatrix) -> int:
    """How many threads can multiply them, for whose room for tiles there is; x has the tables that w reads."""
    if w.layout == "multiply-add":
        return MAX_THREADS
    missing = set(w.tables) - set(x.lookup.tables if x.lookup else ())
    if missing or not x.lookup:
        raise InvalidRequestError(f"matmul: {w.scheme} in the lookup layout reads {' and '.join(w.tables)} tables, and x has no such")
    if x.lookup.tiles.shape[1] < LOOKUP_TILES * w.tile_bytes:
        raise InvalidRequestError(f"matmul: {LOOKUP_TILES} tiles of {w.tile_bytes} bytes don't fit into {x.lookup.tiles.shape[1]}")
    return len(x.lookup.tiles)


class _NativeOps:
    """Fills one `el_op` for each method of `interface.Ops` and hands it to `_emit` with its work, and what it reads and writes."""

    def _emit(self, op: CData, work: Work, reads: _Arrays, writes: _Arrays, step: Step, max_threads: int = MAX_THREADS) -> None:
        raise NotImplementedError

    def embed(self, out: F32, tokens: I32, table: PackedMatrix, step: Step, scale: float = 1.0) -> None:
        """out[l, :] = scale * table[tokens[l], :]."""
        _check("embed: out", out, np.float32, table.cols)
        _check("embed: tokens", tokens, np.int32)
        op = ffi.new("el_op *", {"kind": lib.EL_OP_EMBED})
        args = op.args.embed
        args.tokens, args.out, args.scale = pointer("int32_t *", tokens), pointer("float *", out), scale
        _fill_matrix(args.table, table)
        work = Work((table.rows, table.cols), table.scheme, bytes_per_token=table.nbytes // table.rows)
        self._emit(op, work, _parts(tokens, table), [out], step)

    def rmsnorm(self, x: F32, weight: F32, eps: float, step: Step) -> None:
        """x = weight * x / sqrt(mean(x^2) + eps) of each head, in place."""
        heads, head_dim = x.shape[1:]
        _check("rmsnorm: x", x, np.float32, heads, head_dim)
        _check_head_dim(head_dim)
        _check_vector("rmsnorm: weight", weight, head_dim)
        op = ffi.new("el_op *", {"kind": lib.EL_OP_RMSNORM})
        args = op.args.rmsnorm
        args.x, args.weight = pointer("float *", x), pointer("float *", weight)
        args.heads, args.head_dim, args.eps = heads, head_dim, eps
        self._emit(op, Work(x.shape[1:]), [weight], [x], step)

    def rmsnorm_add(self, out: F32, x: F32, weight: F32, eps: float, step: Step) -> None:
        """out += weight * x / sqrt(mean(x^2) + eps)."""
        cols = weight.size
        for name, array in (("x", x), ("out", out)):
            _check(f"rmsnorm_add: {name}", array, np.float32, cols)
        _check_vector("rmsnorm_add: weight", weight, cols)
        if cols % 16:
            raise InvalidRequestError(f"rmsnorm_add: columns must be a multiple of 16, not {cols}")
        op = ffi.new("el_op *", {"kind": lib.EL_OP_RMSNORM_ADD})
        args = op.args.rmsnorm_add
        args.x, args.weight, args.out = (pointer("float *", a) for a in (x, weight, out))
        args.cols, args.eps = cols, eps
        self._emit(op, Work(x.shape[1:]), [x, weight], [out], step)

    def rmsnorm_quantize(self, out: Activation, x: F32, weight: F32, eps: float, step: Step, outputs_only: bool = False) -> None:
        """out = quantize(weight * x / sqrt(mean(x^2) + eps))."""
        _check("rmsnorm_quantize: x", x, np.float32, out.codes.shape[1])
        _check_vector("rmsnorm_quantize: weight", weight, x.shape[1])
        op = ffi.new("el_op *", {"kind": lib.EL_OP_RMSNORM_QUANTIZE})
        args = op.args.rmsnorm_quantize
        args.x, args.weight = pointer("float *", x), pointer("float *", weight)
        args.eps, args.outputs_only = eps, outputs_only
        _fill_activation(args.out, out)
        self._emit(op, Work(x.shape[1:], outputs_only=outputs_only), [x, weight], _parts(out), step)

    def quantize(self, out: Activation, x: F32, step: Step) -> None:
        """out = x in int8, in out's groups: 32 columns or all."""
        _check("quantize: x", x, np.float32, out.codes.shape[1])
        op = ffi.new("el_op *", {"kind": lib.EL_OP_QUANTIZE})
        op.args.quantize.x = pointer("float *", x)
        _fill_activation(op.args.quantize.out, out)
        self._emit(op, Work(x.shape[1:]), [x], _parts(out), step)

    def matmul(self, out: F32, x: Activation, w: PackedMatrix, step: Step, accumulate: bool = False, outputs_only: bool = False) -> None:
        """out[l, n] (+)= sum_k w[n, k] x[l, k]."""
        op = ffi.new("el_op *", {"kind": lib.EL_OP_LOOKUP if w.layout == "lookup" else lib.EL_OP_MATMUL})
        work = _fill_matmul(op.args.matmul, out, x, w, accumulate, outputs_only)
        self._emit(op, work, _parts(x, w), [out], step, _lookup_threads(x, w))

    def add_bias(self, x: F32, bias: F32, step: Step) -> None:
        """x[l, n] += bias[n], in place."""
        cols = bias.size
        _check("add_bias: x", x, np.float32, cols)
        _check_vector("add_bias: bias", bias, cols)
        op = ffi.new("el_op *", {"kind": lib.EL_OP_ADD_BIAS})
        args = op.args.add_bias
        args.x, args.bias, args.cols = pointer("float *", x), pointer("float *", bias), cols
        self._emit(op, Work(x.shape[1:]), [bias], [x], step)

    def rope(self, x: F32, cos: F32, sin: F32, step: Step) -> None:
        """Rotate x [L, heads, E] in place."""
        heads, head_dim = x.shape[1:]
        _check("rope: x", x, np.float32, heads, head_dim)
        _check_head_dim(head_dim)
        _check_rotation(cos, sin, head_dim)
        op = ffi.new("el_op *", {"kind": lib.EL_OP_ROPE})
        args = op.args.rope
        args.x, args.cos, args.sin = (pointer("float *", a) for a in (x, cos, sin))
        args.heads, args.head_dim = heads, head_dim
        self._emit(op, Work(x.shape[1:]), [cos, sin], [x], step)

    def cache_append(self, cache: CacheLayer, k: F32, v: F32, cos: F32, sin: F32, step: Step) -> None:
        """Store rope(k) and v at positions T.. ."""
        heads, _, head_dim = cache.values.shape
        for name, array in (("k", k), ("v", v)):
            _check(f"cache_append: {name}", array, np.float32, heads, head_dim)
        _check_rotation(cos, sin, head_dim)
        if len(cos) < cache.context:
            raise InvalidRequestError(f"cos and sin have {len(cos)} positions; the cache has {cache.context}")
        op = ffi.new("el_op *", {"kind": lib.EL_OP_CACHE_APPEND})
        args = op.args.cache_append
        args.k, args.v, args.cos, args.sin = (pointer("float *", a) for a in (k, v, cos, sin))
        _fill_cache(args.cache, cache)
        self._emit(op, Work(k.shape[1:]), [k, v, cos, sin], _parts(cache), step)

    def attention(
        self, out: F32, q: F32, cache: CacheLayer, scratch: Partials, scale: float, step: Step, window: int | None = None
    ) -> None:
        """out = softmax(scale * q keys^T, causal and within the window) values."""
        heads, kv_heads = q.shape[1], cache.values.shape[0]
        for name, array in (("q", q), ("out", out)):
            _check(f"attention: {name}", array, np.float32, heads, cache.values.shape[2])
        if window is not None and window < 1:
            raise InvalidRequestError(f"attention: a window must be at least 1 position, the token's own, not {window}")
        if heads % kv_heads:
            raise InvalidRequestError(f"attention: {heads} query heads can't share {kv_heads} key/value heads evenly")
        blocks, arrived = Partials.shapes(heads, kv_heads, q.shape[2], cache.context)
        for part, dtype, shape in ((scratch.blocks, np.float32, blocks), (scratch.arrived, np.int32, arrived)):
            if part.dtype != dtype or part.shape != shape:
                raise InvalidRequestError(f"attention: scratch {np.dtype(dtype).name} {shape} is needed, not {part.dtype} {part.shape}")
        op = ffi.new("el_op *", {"kind": lib.EL_OP_ATTENTION})
        args = op.args.attention
        args.q, args.out, args.partials = (pointer("float *", a) for a in (q, out, scratch.blocks))
        args.arrived = pointer("int32_t *", scratch.arrived)
        args.heads, args.scale = heads, scale
        args.window = cache.context if window is None else min(window, cache.context)
        _fill_cache(args.cache, cache)
        bytes_per_position = (cache.keys.nbytes + cache.values.nbytes) // cache.context
        work = Work(q.shape[1:], bytes_per_position=bytes_per_position, per_pair=2 * q[0].size, window=window)
        self._emit(op, work, _parts(q, cache), [out, scratch.blocks, scratch.arrived], step)

    def gate_quantize(self, out: Activation, gate: F32, up: F32, activation: GateActivation, step: Step) -> None:
        """out = quantize(activation(gate) * up)."""
        if activation not in GATE_ACTIVATIONS:
            raise InvalidRequestError(f"gate_quantize: activation {activation!r} is unknown; known: {', '.join(GATE_ACTIVATIONS)}")
        for name, array in (("gate", gate), ("up", up)):
            _check(f"gate_quantize: {name}", array, np.float32, out.codes.shape[1])
        op = ffi.new("el_op *", {"kind": lib.EL_OP_GATE_QUANTIZE})
        args = op.args.gate_quantize
        args.gate, args.up = pointer("float *", gate), pointer("float *", up)
        args.activation = getattr(lib, f"EL_{activation.upper()}")
        _fill_activation(args.out, out)
        self._emit(op, Work(gate.shape[1:]), [gate, up], _parts(out), step)

    def relu2_gate(self, gate: F32, up: F32, step: Step) -> None:
        """up = max(gate, 0)^2 * up, in place."""
        cols = up.shape[-1]
        for name, array in (("gate", gate), ("up", up)):
            _check(f"relu2_gate: {name}", array, np.float32, cols)
        op = ffi.new("el_op *", {"kind": lib.EL_OP_RELU2_GATE})
        args = op.args.relu2_gate
        args.gate, args.up, args.cols = pointer("float *", gate), pointer("float *", up), cols
        self._emit(op, Work(up.shape[1:]), [gate], [up], step)

    def check_finite(self, first: I64, x: F32, op: int, step: Step, outputs_only: bool = False) -> None:
        """first[0] = min(first[0], op << 48 | l << 32 | k) for every x[l, k] that is NaN or infinite."""
        _check("check_finite: x", x, np.float32, *x.shape[1:2])
        check = ffi.new("el_op *", {"kind": lib.EL_OP_CHECK_FINITE})
        args = check.args.check_finite
        args.x, args.cols, args.outputs_only = pointer("float *", x), x.shape[1], outputs_only
        _fill_first(args, first, op)
        self._emit(check, Work(x.shape[1:], outputs_only=outputs_only), [x], [first], step)

    def check_cache(self, first: I64, cache: CacheLayer, op: int, step: Step) -> None:
        """The same for the keys and values at positions T.. ."""
        check = ffi.new("el_op *", {"kind": lib.EL_OP_CHECK_CACHE})
        args = check.args.check_cache
        _fill_cache(args.cache, cache)
        _fill_first(args, first, op)
        self._emit(check, Work((cache.values.shape[0], 2, cache.values.shape[2])), _parts(cache), [first], step)


def _overlap(arrays: Sequence[npt.NDArray[Any]], others: Sequence[npt.NDArray[Any]]) -> bool:
    return any(np.may_share_memory(a, b) for a in arrays for b in others)


class Recorder(_NativeOps):
    """Appends each op to `plan`. An op waits for all threads only where it touches what an op since the last barrier wrote,
    or writes what one read."""

    def __init__(self, isa: str) -> None:
        self.plan = Plan(isa)
        self._read: list[npt.NDArray[Any]] = []
        self._written: list[npt.NDArray[Any]] = []

    def _emit(
        self,
        op: CData,
        work: Work,
        reads: _Arrays,
        writes: _Arrays,
        step: Step,  # noqa: ARG002 - a plan takes its step when it is replayed
        max_threads: int = MAX_THREADS,
    ) -> None:
        if _overlap(self._written, reads + writes) or _overlap(self._read, writes):
            op.barrier = 1
            self._read, self._written = [], []
        self._read += reads
        self._written += writes
        self.plan.append(op, work, reads, writes, max_threads)


class Lut8Recorder(Recorder):
    """The ablation lut8: one vector is looked up in tables that are rounded to 8 bits (csrc/lookup/lut8.h), and so the bits are others.

    For measurements: no engine that `edgellm.load` makes records with it. `empty` gives memory (shape, dtype) for the tables.
    """

    def __init__(self, isa: str, empty: Callable[[tuple[int, ...], type], npt.NDArray[Any]]) -> None:
        super().__init__(isa)
        self._empty = empty
        self._tables: dict[tuple[int, Scheme], _Arrays] = {}  # of the codes at that address, for matrices of that scheme
        self._made: set[tuple[int, Scheme]] = set()  # since the codes were written

    def matmul(self, out: F32, x: Activation, w: PackedMatrix, step: Step, accumulate: bool = False, outputs_only: bool = False) -> None:
        """As `interface.Ops` has it, but for the rounding."""
        if w.layout == "multiply-add":
            super().matmul(out, x, w, step, accumulate, outputs_only)
            return
        if w.scheme.family == "int3" or x.group != BLOCK:
            raise InvalidRequestError(f"lut8 takes codes of 2 or 4 bits and activations in groups of {BLOCK}, not {w.scheme} and {x.group}")
        op = ffi.new("el_op *", {"kind": lib.EL_OP_LUT8})
        work = _fill_matmul(op.args.lut8.matmul, out, x, w, accumulate, outputs_only)
        key = x.codes.ctypes.data, w.scheme
        if key not in self._tables:
            bits = 4 if w.scheme.family == "int4" else 2
            self._tables[key] = [self._empty((w.cols // BLOCK, 128 * bits), np.uint8), self._empty((w.cols // BLOCK,), np.float32)]
        tables, scales = self._tables[key]
        op.args.lut8.tables, op.args.lut8.scales = pointer("uint8_t *", tables), pointer("float *", scales)
        if key not in self._made:
            rounding = ffi.new("el_op *", {"kind": lib.EL_OP_LUT8_TABLES, "args": op.args})
            self._emit(rounding, Work(x.codes.shape[1:]), _parts(x), [tables, scales], step)
            self._made.add(key)
        self._emit(op, work, [*_parts(x, w), tables, scales], [out], step, _lookup_threads(x, w))

    def _emit(self, op: CData, work: Work, reads: _Arrays, writes: _Arrays, step: Step, max_threads: int = MAX_THREADS) -> None:
        """Quantizing makes no exact tables, and the rounded ones of what was quantized before are of the past."""
        if op.kind in (lib.EL_OP_RMSNORM_QUANTIZE, lib.EL_OP_QUANTIZE, lib.EL_OP_GATE_QUANTIZE):
            getattr(op.args, _OP_NAMES[op.kind]).out.tables = [ffi.NULL] * len(TABLE_BYTES)
            self._made -= {key for key in self._made if key[0] in {array.ctypes.data for array in writes}}
        super()._emit(op, work, reads, writes, step, max_threads)


class Eager(_NativeOps):
    """Runs each op at once, as a plan of one."""

    def __init__(self, isa: str, pool: Pool) -> None:
        self.isa, self.pool = isa, pool

    def _emit(self, op: CData, work: Work, reads: _Arrays, writes: _Arrays, step: Step, max_threads: int = MAX_THREADS) -> None:
        plan = Plan(self.isa)
        plan.append(op, work, reads, writes, max_threads)
        plan.run(self.pool, step)
