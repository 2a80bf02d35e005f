"""What the bindings refuse: C would read or write past a buffer, or compute something else."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError, NativeError
from edgellm.formats.matrix import INT4, INT8, QuantizedMatrix, Scheme
from edgellm.ops import native
from edgellm.ops.interface import (
    ATTENTION_KEYS,
    ATTENTION_ROWS,
    KEY_TILE,
    MAX_HEAD_DIM,
    Activation,
    CacheLayer,
    PackedMatrix,
    Partials,
    Step,
    packed_bytes,
)

L, D, H, G, E, N, CONTEXT = 4, 64, 4, 2, 16, 48, 64


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


def activation(cols: int = D) -> Activation:
    groups = cols // 32
    return Activation(zeros(L, cols, dtype=np.int8), zeros(L, groups), zeros(L, groups, dtype=np.int32), zeros(L, groups))


def packed(rows: int = N, cols: int = D, scheme: Scheme = INT8) -> PackedMatrix:
    codes, scales = packed_bytes(scheme, rows, cols)
    return PackedMatrix(scheme, rows, cols, zeros(codes, dtype=np.uint8), zeros(scales // 2, dtype=np.float16))


def cache(heads: int = G, head_dim: int = E, context: int = CONTEXT, dtype: Any = np.float16) -> CacheLayer:
    return CacheLayer(zeros(heads, context // KEY_TILE, head_dim, KEY_TILE, dtype=dtype), zeros(heads, context, head_dim, dtype=dtype))


def scratch(heads: int = H, kv_heads: int = G, context: int = CONTEXT) -> Partials:
    blocks, arrived = Partials.shapes(heads, kv_heads, E, context)
    return Partials(zeros(*blocks), zeros(*arrived, dtype=np.int32))


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def misaligned(*shape: int) -> Any:
    size = 4 * int(np.prod(shape))
    return np.zeros(size + 1, np.uint8)[1:].view(np.float32).reshape(shape)


TOKENS = zeros(L, dtype=np.int32)
TABLE, ROPE = zeros(CONTEXT, E // 2), (zeros(CONTEXT, E // 2), zeros(CONTEXT, E // 2))
HEADS = (L, H, E)

# op, the arguments that it takes, and for each refusal the arguments that are different and what the message says.
CALLS: dict[str, dict[str, Any]] = {
    "embed": {"out": zeros(L, D), "tokens": TOKENS, "table": packed(), "scale": 8.0},
    "rmsnorm": {"x": zeros(*HEADS), "weight": zeros(E), "eps": 1e-6},
    "rmsnorm_add": {"out": zeros(L, D), "x": zeros(L, D), "weight": zeros(D), "eps": 1e-6},
    "rmsnorm_quantize": {"out": activation(), "x": zeros(L, D), "weight": zeros(D), "eps": 1e-5},
    "quantize": {"out": activation(), "x": zeros(L, D)},
    "matmul": {"out": zeros(L, N), "x": activation(), "w": packed()},
    "add_bias": {"x": zeros(L, N), "bias": zeros(N)},
    "rope": {"x": zeros(*HEADS), "cos": ROPE[0], "sin": ROPE[1]},
    "cache_append": {"cache": cache(), "k": zeros(L, G, E), "v": zeros(L, G, E), "cos": ROPE[0], "sin": ROPE[1]},
    "attention": {"out": zeros(*HEADS), "q": zeros(*HEADS), "cache": cache(), "scratch": scratch(), "scale": 0.25, "window": 7},
    "gate_quantize": {"out": activation(), "gate": zeros(L, D), "up": zeros(L, D), "activation": "gelu_pytorch_tanh"},
    "relu2_gate": {"gate": zeros(L, D), "up": zeros(L, D)},
}
REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("embed", {"out": zeros(L, D + 32)}, "embed: out: expected float32 [L, 64], got float32 (4, 96)"),
    ("embed", {"tokens": TOKENS.astype(np.int64)}, "embed: tokens: expected int32 [L], got int64 (4,)"),
    ("embed", {"tokens": TOKENS[:, None]}, "embed: tokens: expected int32 [L], got int32 (4, 1)"),
    ("rmsnorm", {"x": zeros(L, H, 24), "weight": zeros(24)}, "head size must be a multiple of 16 up to 256, not 24"),
    ("rmsnorm", {"x": zeros(L, H, E, dtype=np.float64)}, "rmsnorm: x: expected float32 [L, 4, 16], got float64"),
    ("rmsnorm", {"weight": zeros(E + 16)}, "rmsnorm: weight: expected float32 [16], got float32 (32,)"),
    ("rmsnorm", {"x": read_only(zeros(*HEADS))}, "rmsnorm: results must go to writable arrays"),
    ("rmsnorm", {"weight": CALLS["rmsnorm"]["x"][0, 0]}, "not among the inputs"),
    ("rmsnorm_add", {"x": zeros(L, D + 16)}, "rmsnorm_add: x: expected float32 [L, 64], got float32 (4, 80)"),
    ("rmsnorm_add", {"out": zeros(L, D, dtype=np.float16)}, "rmsnorm_add: out: expected float32 [L, 64], got float16"),
    ("rmsnorm_add", {"weight": zeros(1, D)}, "rmsnorm_add: weight: expected float32 [64], got float32 (1, 64)"),
    ("rmsnorm_add", {"out": zeros(L, 40), "x": zeros(L, 40), "weight": zeros(40)}, "columns must be a multiple of 16, not 40"),
    ("rmsnorm_add", {"out": CALLS["rmsnorm_add"]["x"]}, "not among the inputs"),
    ("rmsnorm_quantize", {"x": zeros(L, D + 32)}, "rmsnorm_quantize: x: expected float32 [L, 64]"),
    ("rmsnorm_quantize", {"weight": zeros(D - 1)}, "rmsnorm_quantize: weight: expected float32 [64], got float32 (63,)"),
    ("rmsnorm_quantize", {"weight": zeros(D, dtype=np.float64)}, "weight: expected float32 [64], got float64 (64,)"),
    ("quantize", {"x": zeros(L, D, dtype=np.float16)}, "quantize: x: expected float32 [L, 64], got float16 (4, 64)"),
    ("quantize", {"x": zeros(D)}, "quantize: x: expected float32 [L, 64], got float32 (64,)"),
    ("quantize", {"x": zeros(D, L).T}, "contiguous, aligned"),
    ("quantize", {"x": misaligned(L, D)}, "contiguous, aligned"),
    ("quantize", {"out": activation(48), "x": zeros(L, 48)}, "48 columns can't be quantized in blocks of 32"),
    ("quantize", {"out": replace(activation(), scales=zeros(L, 3))}, "activation scales: expected float32 [L, 2]"),
    ("quantize", {"out": replace(activation(), offsets=zeros(L, 2))}, "activation offsets: expected int32 [L, 2]"),
    ("quantize", {"out": replace(activation(), scaled_sums=zeros(L, 1))}, "activation scaled_sums: expected float32 [L, 2]"),
    ("quantize", {"out": replace(activation(), scales=read_only(zeros(L, 2)))}, "quantize: results must go to writable arrays"),
    ("matmul", {"out": zeros(L, N + 1)}, "matmul: out: expected float32 [L, 48], got float32 (4, 49)"),
    ("matmul", {"x": activation(96)}, "matmul: x: expected int8 [L, 64], got int8 (4, 96)"),
    ("matmul", {"w": replace(packed(), rows=49), "out": zeros(L, 49)}, "49 x 64 packed as int8-g32 has (4096, 256) bytes, not (3072, 192)"),
    ("add_bias", {"x": zeros(L, N + 1)}, "add_bias: x: expected float32 [L, 48], got float32 (4, 49)"),
    ("add_bias", {"bias": zeros(N, dtype=np.float16)}, "add_bias: bias: expected float32 [48], got float16 (48,)"),
    ("add_bias", {"bias": CALLS["add_bias"]["x"][0]}, "not among the inputs"),
    ("rope", {"x": zeros(L, H, 24)}, "head size must be a multiple of 16 up to 256, not 24"),
    ("rope", {"x": zeros(L, H, 272)}, "head size must be a multiple of 16 up to 256, not 272"),
    ("rope", {"cos": zeros(CONTEXT, E)}, "cos: expected float32 [L, 8], got float32 (64, 16)"),
    ("rope", {"sin": zeros(CONTEXT, E)}, "sin: expected float32 [L, 8], got float32 (64, 16)"),
    ("rope", {"sin": zeros(CONTEXT - 1, E // 2)}, "cos has 64 positions and sin 63"),
    ("rope", {"x": ROPE[0].reshape(CONTEXT // 2, 1, E)}, "not among the inputs"),
    ("cache_append", {"k": zeros(L, G + 1, E)}, "cache_append: k: expected float32 [L, 2, 16]"),
    ("cache_append", {"v": zeros(L, G, E, dtype=np.float16)}, "cache_append: v: expected float32 [L, 2, 16], got float16"),
    ("cache_append", {"cos": zeros(16, E // 2), "sin": zeros(16, E // 2)}, "cos and sin have 16 positions; the cache has 64"),
    ("cache_append", {"cache": replace(cache(), keys=cache(context=128).keys)}, "cache keys (2, 2, 16, 64) float16 don't match"),
    ("cache_append", {"cache": replace(cache(), keys=cache(dtype=np.float32).keys)}, "float32 don't match values (2, 64, 16) float16"),
    ("cache_append", {"cache": cache(dtype=np.float64)}, "a cache holds float16 or float32, not float64"),
    ("cache_append", {"cache": CacheLayer(zeros(G, 1, E, 64), zeros(G, 48, E))}, "don't match values (2, 48, 16)"),
    ("attention", {"q": zeros(L, H, E + 16)}, "attention: q: expected float32 [L, 4, 16]"),
    ("attention", {"out": zeros(L, H - 1, E)}, "attention: out: expected float32 [L, 4, 16]"),
    ("attention", {"q": zeros(L, 3, E), "out": zeros(L, 3, E)}, "3 query heads can't share 2 key/value heads evenly"),
    ("attention", {"window": 0}, "attention: a window must be at least 1 position, the token's own, not 0"),
    ("attention", {"scratch": scratch(context=192)}, "scratch float32 (2, 1, 288) is needed, not float32 (2, 2, 288)"),
    ("attention", {"scratch": scratch(heads=34)}, "scratch float32 (2, 1, 288) is needed, not float32 (4, 1, 288)"),
    ("attention", {"scratch": replace(scratch(), arrived=zeros(2))}, "scratch int32 (2,) is needed, not float32 (2,)"),
    ("attention", {"out": CALLS["attention"]["q"]}, "not among the inputs"),
    ("gate_quantize", {"gate": zeros(L, D - 32)}, "gate_quantize: gate: expected float32 [L, 64]"),
    ("gate_quantize", {"up": zeros(L, D, dtype=np.float64)}, "gate_quantize: up: expected float32 [L, 64], got float64"),
    ("gate_quantize", {"activation": "gelu"}, "gate_quantize: activation 'gelu' is unknown; known: silu, gelu_pytorch_tanh"),
    ("relu2_gate", {"gate": zeros(L, D + 1)}, "relu2_gate: gate: expected float32 [L, 64], got float32 (4, 65)"),
    ("relu2_gate", {"up": zeros(L, 1, D)}, "relu2_gate: up: expected float32 [L, 64], got float32 (4, 1, 64)"),
    ("relu2_gate", {"gate": CALLS["relu2_gate"]["up"]}, "not among the inputs"),
]  # fmt: skip


@pytest.fixture
def step() -> Step:
    made = Step()
    made.set(0, L, L)
    return made


@pytest.mark.parametrize("op", CALLS)
def test_the_calls_that_the_refusals_vary_are_good_ones(op: str, step: Step) -> None:
    recorder = native.Recorder("scalar")
    getattr(recorder, op)(**CALLS[op], step=step)
    assert [recorded.name for recorded in recorder.plan.ops] == [op]


@pytest.mark.parametrize(("op", "changes", "message"), REFUSALS, ids=[f"{op}-{'-'.join(changes)}" for op, changes, _ in REFUSALS])
def test_refusals(op: str, changes: dict[str, Any], message: str, step: Step) -> None:
    recorder = native.Recorder("scalar")
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        getattr(recorder, op)(**CALLS[op] | changes, step=step)
    assert len(recorder.plan) == 0


def test_sizes_that_c_and_python_both_know_agree() -> None:
    from edgellm._native import lib

    assert (lib.EL_KEY_TILE, lib.EL_ATTENTION_KEYS, lib.EL_ATTENTION_ROWS) == (KEY_TILE, ATTENTION_KEYS, ATTENTION_ROWS)
    assert lib.EL_MAX_HEAD_DIM == MAX_HEAD_DIM


def test_columns_that_no_group_fills_are_refused() -> None:
    matrix = QuantizedMatrix(INT4, zeros(1, 24, dtype=np.uint8), zeros(1, 1, dtype=np.float16))
    with pytest.raises(InvalidRequestError, match="columns must be a multiple of 32"):
        native.pack(matrix, zeros(256, dtype=np.uint8), zeros(16, dtype=np.float16))


def test_the_best_instruction_set_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELLM_ISA", raising=False)
    assert native.choose_isa() == native.isas_available()[-1]
    assert native.isas_available()[0] == "scalar"


def test_the_environment_chooses_and_an_argument_overrides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_ISA", "scalar")
    assert native.choose_isa() == "scalar"
    assert native.choose_isa(native.isas_available()[-1]) == native.isas_available()[-1]


@pytest.mark.parametrize("argument", [None, "sse9"])
def test_an_unknown_instruction_set_is_refused_by_name(argument: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_ISA", "sse9" if argument is None else "scalar")
    known = ", ".join(native.ISAS)
    with pytest.raises(NativeError, match=f"instruction set 'sse9' is unknown; known: {known}"):
        native.choose_isa(argument)


@pytest.mark.parametrize(("compiled", "why"), [(1, "this processor can't run it"), (0, "this build has no kernels for it")])
def test_an_instruction_set_that_can_not_run_here_is_refused_by_name(compiled: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        """The compiled module on a processor or in a build that has scalar only."""

        el_isa_supported = staticmethod(lambda isa: isa == 0)
        el_isa_compiled = staticmethod(lambda isa: isa == 0 or compiled)

    monkeypatch.setattr(native, "lib", Elsewhere)
    monkeypatch.setenv("EDGELLM_ISA", "avx2")
    with pytest.raises(NativeError, match=f"'avx2' was asked for, but {why}; available here: scalar"):
        native.choose_isa()


def test_build_info_names_the_sources_and_the_compiler() -> None:
    info = native.build_info()
    assert re.fullmatch("[0-9a-f]{16}", info["csrc_hash"])
    assert info["compiler"]


def test_a_pool_lives_as_long_as_what_is_bound_to_it() -> None:
    plan, pool, step = native.Plan("scalar"), native.Pool(2), Step()
    bound = plan.bind(pool, step)
    del pool
    native.replay(bound)
