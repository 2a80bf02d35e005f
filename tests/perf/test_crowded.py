"""Threads that lack processors: beside a process that takes one, and more of them than there are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.bench import Case, Turn, interleave
from edgellm.measure.recorder import LatencyRecorder
from edgellm.measure.results import Record
from edgellm.measure.statistics import percentile

PROCESSORS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

pytestmark = [
    pytest.mark.perf,
    pytest.mark.usefixtures("this_engine"),
    pytest.mark.skipif(len(PROCESSORS) < 2, reason="this process can't choose between two processors"),
]

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


SITUATIONS = [
    pytest.param("free_cores", marks=pytest.mark.budget(free_cores_ratio=1.5)),
    pytest.param("busy_core", marks=pytest.mark.budget(busy_core_ratio=1.25)),
    pytest.param("oversubscribed", marks=pytest.mark.budget(oversubscribed_ratio=1.5)),
]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_more_threads_cost(situation: str, model_path: Path, latency_recorder: LatencyRecorder) -> None:
    """The time of two threads over that of one, by themselves and where another process has one of two processors; and that of twice
    as many threads as there are processors over that of the right number.
    """
    count = len(PROCESSORS)
    threads = (count, 2 * count) if situation == "oversubscribed" else (1, 2)
    with busy_process(PROCESSORS[1]) if situation == "busy_core" else nullcontext():
        ((fewer, more),) = latency_recorder.time(situation, lambda: measure(model_path, *threads), rounds=1)
    latency_recorder.note(records=[fewer, more])
    latency_recorder.add(**{f"{situation}_ratio": percentile(more["samples_ns"], 50) / percentile(fewer["samples_ns"], 50)})
