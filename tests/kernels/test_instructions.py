"""Instructions that emulated kernels take: what can be said of their speed without the hardware."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.formats.matrix import Scheme
from edgellm.ops.interface import TABLE_BYTES, TILE, Layout, LookupRoom, Ops
from tests.conftest import ROOT, Report
from tests.emulated.library import Library, emulated_isas
from tests.kernels.calls import Results, native_results, step
from tests.kernels.data import F32, normal, random_activation, random_matrix
from tests.kernels.space import Space
from tests.kernels.test_attention import random_attention
from tests.kernels.test_matmul import Matmul

COLS = 512
SCHEMES = ("int8-g32", "int4-g32", "int4-min-g32", "int3-g64", "int2-g64", "ternary-g64", "tritplanes2-g64")
COMMITTED = ROOT / "benchmarks" / "results" / "instructions.json"
MOST = 1.25
"""Times the committed count, which is of gcc 12: other compilers differ, and a kernel that lost a trick takes half as many again."""
MATMULS = [(scheme, "multiply-add", tokens) for tokens in (1, 4) for scheme in SCHEMES] + [(scheme, "lookup", 1) for scheme in SCHEMES[1:]]

Counted = Callable[[Callable[[int], object]], int]


@pytest.fixture
def counted(isa: str, library: Library, tmp_path: Path) -> Counted:
    """The instructions that `run(cols)` takes for COLS more columns: what the process does besides is in both counts."""
    if isa not in emulated_isas():
        pytest.skip("instructions are counted where they are emulated")
    return lambda run: (
        library.instructions(isa, lambda: run(2 * COLS), tmp_path / "log") - library.instructions(isa, lambda: run(COLS), tmp_path / "log")
    )


@pytest.mark.parametrize(("scheme", "layout", "tokens"), MATMULS)
def test_instructions_of_a_weight(isa: str, counted: Counted, scheme: str, layout: Layout, tokens: int, report: Report) -> None:
    def run(cols: int) -> None:
        rng = np.random.default_rng(cols)
        call = Matmul(random_matrix(rng, Scheme.parse(scheme), TILE, cols), *random_activation(rng, tokens, cols), layout=layout)
        native_results(call, isa)

    each = counted(run) / (COLS * TILE * tokens)
    line = f"{isa}, {scheme}, {layout}, tokens at once: {tokens}: {each:.3f} instructions per weight and token (emulated)"
    facts = {"isa": isa, "scheme": scheme, "layout": layout, "tokens": tokens}
    report("instructions", line, provenance="emulated", **facts, instructions_per_weight=each)
    (committed,) = (record["instructions_per_weight"] for record in committed_records() if facts.items() <= record.items())
    assert each <= MOST * committed


def committed_records() -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(COMMITTED.read_text(encoding="utf-8"))["records"]
    return records


@dataclass(frozen=True)
class Quantize:
    """x to int8, and its sums into tables of these kinds."""

    x: F32
    kinds: tuple[str, ...]

    def run(self, ops: Ops, space: Space) -> Results:
        out = space.activation_output(len(self.x), self.x.shape[1], tables=True)
        assert out.lookup
        room = LookupRoom({kind: out.lookup.tables[kind] for kind in self.kinds}, out.lookup.tiles)
        ops.quantize(replace(out, lookup=room), space.input(self.x), step(0, len(self.x)))
        return {}


@pytest.mark.parametrize("kind", TABLE_BYTES)
def test_instructions_of_a_column_of_tables(isa: str, counted: Counted, kind: str, report: Report) -> None:
    """What lookup takes besides, once for all the rows that look up in them."""

    def run(kinds: tuple[str, ...], cols: int) -> None:
        native_results(Quantize(normal(np.random.default_rng(cols), 1, cols), kinds), isa)

    each = (counted(partial(run, (kind,))) - counted(partial(run, ()))) / COLS
    line = f"{isa}, {kind}: {each:.1f} instructions per column (emulated)"
    report("instructions", line, provenance="emulated", isa=isa, tables=kind, instructions_per_column=each)


def test_keys_out_of_the_window_cost_nothing(isa: str, counted: Counted) -> None:
    """Ever so many more of them: their blocks are not even looked at."""
    assert abs(counted(lambda cols: native_results(random_attention(16, ratio=1, position=4 * cols, kv_heads=1, window=40), isa))) < 50
