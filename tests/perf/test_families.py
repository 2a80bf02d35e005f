"""Both families of kernels for each scheme, in turn, per instruction set: what LOOKUP_IS_FASTER is read off (`nox -s perf -- kernels`)."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.formats.matrix import Scheme
from edgellm.measure.microbench import WORKING_SET, Setting
from edgellm.measure.tune import compare_layouts
from edgellm.ops import native
from edgellm.runtime.realtime import bound
from edgellm.runtime.tuning import MatrixKind
from tests.conftest import Report
from tests.perf.tables import Tables

pytestmark = [pytest.mark.perf, pytest.mark.kernels]

SCHEMES = ("int4-g32", "int4-min-g32", "int3-g64", "int2-g64", "ternary-g64", "ternary-row", "tritplanes2-g64", "tritplanes3-g64")
ROWS, COLS, SHARING = 1536, 576, 2  # as the widest matrices of SmolLM2's layers, two of which share a vector
COLUMNS = ("isa", "scheme", "threads", "multiply-add, us", "lookup, us", "lookup's time over that", "resolved")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_families(isa: str, scheme: str, threads: int, rounds: int, report: Report, tables: Tables) -> None:
    pool, kind = native.Pool(threads), MatrixKind(ROWS, COLS, Scheme.parse(scheme))
    with bound(pool.thread_ids()):
        record = compare_layouts(Setting(isa, threads=threads), pool, kind, SHARING, WORKING_SET, rounds)
    us = {record[of]: np.median(record[f"{of}_ns"]) / record["calls"] / 1e3 for of in ("default", "other")}
    ratio = record["ratio"] if record["default"] == "multiply-add" else 1 / record["ratio"]
    figures = (f"{us['multiply-add']:.2f}", f"{us['lookup']:.2f}", f"{ratio:.2f}", f"{record['resolution']:.2f}")
    tables.add("families of kernels", COLUMNS, (isa, scheme, str(threads), *figures))
    report("families", f"{isa}, {scheme}, {threads} threads: lookup takes {ratio:.2f} of the time", isa=isa, lookup_ratio=ratio, **record)
