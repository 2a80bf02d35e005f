"""Every kernel by itself, per instruction set: achieved GB/s and GOP/s in pytest-benchmark's JSON (`nox -s perf -- kernels`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from timeit import timeit
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm.formats.matrix import Scheme
from edgellm.measure import microbench
from edgellm.measure.bandwidth import ReadProbe
from edgellm.measure.microbench import KernelBench, Setting
from edgellm.measure.statistics import percentile
from edgellm.measure.table import shown
from edgellm.ops.drawing import Drawing
from edgellm.ops.native import READ_BLOCK
from tests.perf.tables import Tables

pytestmark = [pytest.mark.perf, pytest.mark.kernels]

SCHEMES = (
    *("int8-g32", "int4-g32", "int4-min-g32", "int3-g32", "int3-g128", "int2-g32", "int2-g128"),
    *("ternary-g32", "ternary-g128", "ternary-row", "tritplanes2-g128", "tritplanes3-g128"),
)
DECODE, PREFILL = 1, 128
SHAPES = ((576, 576), (1536, 576), (576, 1536), (192, 576), (1001, 992))
HEAD = (49152, 576)  # prefill runs it for a single token
MATMULS = [(*shape, tokens) for tokens in (DECODE, PREFILL) for shape in SHAPES] + [(*HEAD, DECODE)]
COLUMNS = ("kernel", "shape", "tokens", "after", "us a call", "GB/s", "of read", "GOP/s")
SECONDS, FEWEST, MOST = 0.2, 5, 50
"""Rounds of a bench: as many as fit into so many seconds, within bounds."""

Run = Callable[[KernelBench, Setting], None]


@pytest.fixture
def run(benchmark: BenchmarkFixture, tables: Tables) -> Run:
    """Times a bench; memory is read at full speed before each round, so that the share of its bandwidth is of the same moment."""
    timed: Any = benchmark  # its methods carry no types

    def run(bench: KernelBench, setting: Setting) -> None:
        probe = ReadProbe(bench.streamed_bytes or READ_BLOCK, setting.threads)
        read_ns: list[int] = []
        rounds = min(max(int(SECONDS / timeit(bench.run, number=1)), FEWEST), MOST)
        timed.pedantic(bench.run, setup=lambda: read_ns.append(probe.read_ns()), rounds=rounds, warmup_rounds=1)
        ns = percentile(timed.stats.stats.data, 50) * 1e9
        streamed, done = bench.streamed_bytes / ns, bench.operations / ns
        share = streamed * 1e9 / probe.bytes_per_second(read_ns)
        timed.extra_info.update(
            {"kernel": bench.kernel, "shape": bench.shape, "calls": bench.calls, **asdict(setting), "provenance": "measured"},
            streamed_bytes=bench.streamed_bytes,
            operations=bench.operations,
            gigabytes_per_second=streamed,
            share_of_read_bandwidth=share,
            giga_operations_per_second=done,
        )
        figures = (f"{ns / bench.calls / 1e3:.1f}", shown(streamed, ".1f"), shown(share, ".0%"), shown(done, ".1f"))
        tables.add("kernels", COLUMNS, (bench.kernel, bench.shape, str(setting.n_tokens), str(setting.position), *figures))

    return run


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("rows", "cols", "n_tokens"), MATMULS)
def test_matmul(isa: str, scheme: str, rows: int, cols: int, n_tokens: int, run: Run) -> None:
    setting = Setting(isa, n_tokens)
    run(microbench.matmul(setting, Scheme.parse(scheme), rows, cols), setting)


@pytest.mark.parametrize(("n_tokens", "position"), [(DECODE, 128), (DECODE, 2048), (PREFILL, 0), (PREFILL, 1920)])
def test_attention(isa: str, n_tokens: int, position: int, run: Run) -> None:
    setting = Setting(isa, n_tokens, position)
    run(microbench.attention(setting, heads=9, kv_heads=3, head_dim=64), setting)


@pytest.mark.parametrize(
    ("kernel", "dims"),
    [
        *[("rmsnorm", (9, 64)), ("rmsnorm_add", (576,)), ("rmsnorm_quantize", (576,)), ("quantize", (576,)), ("gate_quantize", (1536,))],
        *[("relu2_gate", (1536,)), ("add_bias", (576,)), ("rope", (9, 64)), ("cache_append", (3, 64))],
    ],
)
@pytest.mark.parametrize("n_tokens", [DECODE, PREFILL])
def test_vectors(isa: str, kernel: str, dims: tuple[int, ...], n_tokens: int, run: Run) -> None:
    setting = Setting(isa, n_tokens)
    run(getattr(microbench, kernel)(setting, *dims), setting)


@pytest.mark.parametrize("filters", [{}, {"top_k": 40}, {"top_p": 0.9}, {"top_p": 0.9, "temperature": 2.0}, {"min_p": 0.05}], ids=str)
def test_sample(isa: str, filters: dict[str, Any], benchmark: BenchmarkFixture, tables: Tables) -> None:
    """Drawing a token, which one thread does between two steps, of logits that are spread like a model's."""
    timed: Any = benchmark
    logits = 3 * np.random.default_rng(0).standard_normal(HEAD[0], np.float32)
    options = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0} | filters
    drawing = Drawing(len(logits), isa=isa, **options)
    timed.pedantic(drawing.draw, (logits, np.empty(0, np.int64), 0.5), rounds=MOST, iterations=4, warmup_rounds=1)
    timed.extra_info.update({"kernel": "el_sample", "isa": isa, "vocabulary": len(logits), **options, "provenance": "measured"})
    us = f"{percentile(timed.stats.stats.data, 50) * 1e6:.1f}"
    tables.add("kernels", COLUMNS, (f"el_sample, {isa}", ", ".join(f"{k} {v}" for k, v in filters.items()), "1", "", us, "", "", ""))
