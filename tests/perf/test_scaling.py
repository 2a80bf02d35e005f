"""Time per token against the size of the model: synthetic models, random ternary weights in the shapes of known ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.formats.matrix import Scheme
from edgellm.formats.tmac2 import write_tmac2
from edgellm.measure import bench, synthetic
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.fresh_process import run_in_fresh_process
from edgellm.measure.results import ResultsFile
from edgellm.measure.statistics import percentile
from tests.conftest import ROOT
from tests.perf.goals import Board, goals
from tests.perf.prompt import PROMPT
from tests.perf.reading import streamed_bytes
from tests.perf.tables import Tables

pytestmark = [pytest.mark.perf, pytest.mark.scaling]

BODY, HEAD = Scheme.parse("ternary-g64"), Scheme.parse("int4-g32")
THREADS = 2
CASE = bench.Case("tg", 16)
LARGEST = "3.8B"


@pytest.fixture(scope="module")
def results(machine: dict[str, Any]) -> Iterator[ResultsFile]:
    with ResultsFile(ROOT / "results" / "scaling.json", kind="scaling", fingerprint=machine) as file:
        yield file


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Path]]:
    """A file for each shape, 1.5 GB in all, removed in the end."""
    folder = ROOT / "build" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {size: folder / f"synthetic-{size}.tmac2.bin" for size in synthetic.SHAPES}
    try:
        for size, path in paths.items():
            write_tmac2(path, synthetic.checkpoint(synthetic.SHAPES[size], BODY, HEAD))
        yield paths
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


def test_time_grows_with_bytes(rounds: int, models: dict[str, Path], results: ResultsFile, tables: Tables, board: Board) -> None:
    """All sizes in turn; the exponent is the slope of a line through the logarithms."""
    backends = {size: EdgeLLMBackend(path, threads=THREADS, context=CASE.context) for size, path in models.items()}
    streamed, median_ns = [], []
    measured = bench.interleave([bench.Turn(backend, CASE) for backend in backends.values()], rounds)
    for (size, backend), record in zip(backends.items(), measured, strict=True):
        streamed.append(streamed_bytes(backend, CASE))
        median_ns.append(percentile(np.concatenate(record["itl_ns"]), 50))
        facts = {"synthetic": True, "size": size, "shape_of": synthetic.SHAPES[size].of, "streamed_bytes": streamed[-1]}
        results.append(record | facts)
    slope, start = np.polyfit(streamed, median_ns, 1)
    for size, nbytes, ns in zip(backends, streamed, median_ns, strict=True):
        fitted = start + slope * nbytes
        figures = (f"{nbytes / 1e6:.1f}", f"{ns / 1e6:.2f}", f"{fitted / 1e6:.2f}", f"{nbytes / ns:.1f}")
        tables.add(
            "synthetic models", ("size", "shape of", "MB", "ms a token", "on the line", "GB/s"), (size, synthetic.SHAPES[size].of, *figures)
        )
    (goal,) = goals("scaling_exponent")
    exponent = float(np.polyfit(np.log(streamed), np.log(median_ns), 1)[0])
    board.judge(THREADS, (goal, exponent, f"line: {start / 1e6:.2f} ms + bytes / {1 / slope:.1f} GB/s"))


def test_memory_of_the_largest(models: dict[str, Path], results: ResultsFile, board: Board) -> None:
    """Of a fresh process that loads it, prefills 128 tokens and decodes 64."""
    prompt = PROMPT[:128]  # a token a byte
    answer = run_in_fresh_process("edgellm", str(models[LARGEST]), THREADS, prompt, new_tokens=64, context=192)
    results.append({"test": "fresh_process", "synthetic": True, "size": LARGEST, "n_threads": THREADS, **answer._asdict()})
    (goal,) = goals("peak_rss_gb")
    peak_gb = answer.peak_rss_bytes / 1e9
    board.judge(THREADS, (goal, peak_gb, f"file of {models[LARGEST].stat().st_size / 1e9:.2f} GB"))
    assert goal.kept(peak_gb)
