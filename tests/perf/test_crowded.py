"""Threads that lack processors: beside a process that takes one, and more of them than there are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.bench import Case, Turn, interleave
from edgellm.measure.results import Record
from edgellm.measure.statistics import percentile
from tests.perf.conftest import LatencyRecorder

PROCESSORS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

pytestmark = [pytest.mark.perf, pytest.mark.skipif(len(PROCESSORS) < 2, reason="this process can't choose between two processors")]

CASE = Case("tg", 64)
ROUNDS = 5


@contextmanager
def busy_process(processor: int) -> Iterator[None]:
    """A process that does nothing but take that processor."""
    spin = f"import os; os.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as process:
        try:
            yield
        finally:
            process.kill()


def measure(model: Path, *threads: int) -> list[Record]:
    """A record of each number of threads, taking turns."""
    turns = [Turn(EdgeLLMBackend(model, threads=count, context=CASE.context, fixed_team=False), CASE) for count in threads]
    return list(interleave(turns, ROUNDS, progress=False, settle_s=0.05))


@pytest.mark.parametrize("situation", ["free_cores", "busy_core", "oversubscribed"])
def test_what_more_threads_cost(situation: str, model_path: Path, latency: LatencyRecorder) -> None:
    """The time of two threads over that of one, by themselves and where another process has one of two processors; and that of twice
    as many threads as there are processors over that of the right number.
    """
    count = len(PROCESSORS)
    threads = (count, 2 * count) if situation == "oversubscribed" else (1, 2)
    with busy_process(PROCESSORS[1]) if situation == "busy_core" else nullcontext():
        benchmark: Any = latency.benchmark  # its methods carry no types
        fewer, more = benchmark.pedantic(measure, args=(model_path, *threads))
    ratio = percentile(more["samples_ns"], 50) / percentile(fewer["samples_ns"], 50)
    row = f"{situation}: the time of {threads[1]} threads over that of {threads[0]}: {ratio:.2f}"
    latency.judge(situation, row, {f"{situation}_ratio": ratio}, records=[fewer, more])
