"""The benches of single kernels run, on every instruction set, and count what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgellm.formats.matrix import Scheme
from edgellm.measure import microbench
from edgellm.measure.microbench import CALLS, KernelBench, Setting
from edgellm.ops import native
from edgellm.ops.interface import LAYOUTS, Layout, packed_bytes


@pytest.mark.parametrize("scheme", ["int8-g32", "int4-min-g32", "int3-row", "ternary-tensor", "tritplanes2-g128"])
@pytest.mark.parametrize("rows", [48, 41])
def test_matrices_fill_the_working_set(isa: str, scheme: str, rows: int) -> None:
    size = sum(packed_bytes(Scheme.parse(scheme), rows, 96))
    bench = microbench.matmul(Setting(isa, n_tokens=3), Scheme.parse(scheme), rows, 96, working_set=5 * size + 1)
    bench.run()
    assert bench.kernel.startswith("el_matmul__")
    assert bench.shape == f"{rows} x 96 {scheme}"
    assert bench.calls == 5
    assert bench.streamed_bytes == 5 * size
    assert bench.operations == 5 * 3 * 2 * rows * 96


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vectors_are_normed_for_so_many_matrices_and_only_those_are_counted(layout: Layout) -> None:
    scheme = Scheme.parse("ternary-g64")
    size = sum(packed_bytes(scheme, 48, 96))
    bench = microbench.matmul(Setting("scalar"), scheme, 48, 96, layout, working_set=5 * size, sharing=2, pool=native.Pool(1))
    bench.run()
    assert bench.kernel == {"multiply-add": "el_matmul__scalar", "lookup": "el_lookup__scalar"}[layout]
    assert (bench.calls, bench.streamed_bytes) == (5, 5 * size)
    assert [op.name for op in bench._plan.ops].count("rmsnorm_quantize") == 3


def test_a_matrix_larger_than_the_working_set_is_taken_once(isa: str) -> None:
    assert microbench.matmul(Setting(isa), Scheme.parse("int8-g32"), 48, 96, working_set=1).calls == 1


def test_caches_fill_the_working_set(isa: str) -> None:
    bench = microbench.attention(Setting(isa, n_tokens=2, position=13, threads=2), 4, 2, 16, working_set=3 * 2 * 2 * 64 * 16 * 2)
    bench.run()
    assert bench.calls == 3
    assert bench.streamed_bytes == 3 * 2 * 2 * 15 * 16 * 2
    assert bench.operations == 3 * 2 * 2 * 4 * 16 * (14 + 15)


def test_attention_within_a_window_counts_what_it_reads(isa: str) -> None:
    bench = microbench.attention(Setting(isa, n_tokens=2, position=130), 4, 2, 16, working_set=1, window=5)
    bench.run()
    assert bench.streamed_bytes == 2 * 2 * (5 + 1) * 16 * 2
    assert bench.operations == 2 * 2 * 4 * 16 * (5 + 5)


@pytest.mark.parametrize(
    ("make", "dims"),
    [
        *((make, (64,)) for make in (microbench.rmsnorm_quantize, microbench.quantize, microbench.gate_quantize)),
        *((make, (64,)) for make in (microbench.rmsnorm_add, microbench.add_bias, microbench.relu2_gate)),
        *((make, (2, 16)) for make in (microbench.rmsnorm, microbench.rope, microbench.cache_append)),
    ],
)
def test_kernels_that_read_no_weights(isa: str, make: Callable[..., KernelBench], dims: tuple[Any, ...]) -> None:
    bench = make(Setting(isa, n_tokens=2), *dims)
    bench.run()
    assert bench.kernel.startswith(f"el_{make.__name__}__")
    assert (bench.calls, bench.streamed_bytes, bench.operations) == (CALLS, 0, 0)
