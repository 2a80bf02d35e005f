"""EdgeLLM and llama.cpp on the same GGUF with the same threads and token ids, taking turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellm.measure import bench
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.backends.protocol import Backend
from edgellm.measure.results import ResultsFile
from edgellm.measure.statistics import percentile
from tests.perf.fresh_process import run_in_fresh_process

pytestmark = [pytest.mark.perf, pytest.mark.peers]

pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed: pip install 'edgellm[baselines]'")

CASES = (bench.Case("pp", 128), bench.Case("tg", 64))
ROUNDS = 10
SETTLE_S = 0.2
"""Rest before each turn: OpenMP's threads spin for a while after their work, and would be in the other's way."""


@pytest.fixture(scope="module")
def results(results_folder: Path, machine: dict[str, Any]) -> Iterator[ResultsFile]:
    with ResultsFile(results_folder / "peers.json", kind="peers", fingerprint=machine) as file:
        yield file


@pytest.mark.parametrize("threads", [1, 2])
def test_not_slower_than_llama_cpp(
    threads: int, model_path: Path, model_gguf: Path, results: ResultsFile, note: Callable[[str], None]
) -> None:
    """Median against median; llama.cpp runs with and without flash attention, and the better of the two counts in each case."""
    from edgellm.measure.backends.llama_cpp import LlamaCppBackend

    context = max(case.context for case in CASES)
    backends: list[Backend] = [
        EdgeLLMBackend(model_path, threads=threads, context=context),
        LlamaCppBackend(model_gguf, threads=threads, context=context),
        LlamaCppBackend(model_gguf, threads=threads, context=context, flash_attention=True),
    ]
    try:
        records = [results.append(record) for record in bench.measure(backends, CASES, ROUNDS, settle_s=SETTLE_S)]
    finally:
        for backend in backends:
            backend.unload()

    ratios = {}
    for case in CASES:
        medians = {record["backend"]: percentile(record["samples_ns"], 50) for record in records if record["test"] == str(case)}
        ratios[str(case)] = min(median for name, median in medians.items() if name != "edgellm") / medians["edgellm"]
    results.append({"test": "speed_ratio", "n_threads": threads, "ratios": ratios})
    said = ", ".join(f"{case} {ratio:.2f}x" for case, ratio in ratios.items())
    note(f"{bench.table(records)}\nspeed against the better llama.cpp at t={threads}, medians: {said}\n")
    assert min(ratios.values()) >= 1.0, said


@pytest.mark.parametrize("threads", [1, 2])
def test_fresh_process_beside_llama_cpp(
    threads: int, model_path: Path, model_gguf: Path, results: ResultsFile, note: Callable[[str], None]
) -> None:
    """Peak memory and import-to-first-token time of each, five fresh processes taking turns."""
    models = {"edgellm": model_path, "llama.cpp": model_gguf}
    runs: dict[str, list[dict[str, int]]] = {name: [] for name in models}
    for _ in range(5):
        for name, model in models.items():
            runs[name].append(run_in_fresh_process(name, model, threads))
    for name, answers in runs.items():
        samples = {key: [answer[key] for answer in answers] for key in answers[0]}
        p50 = {key: percentile(values, 50) for key, values in samples.items()}
        results.append({"test": "fresh_process", "backend": name, "n_threads": threads, "samples": samples, "p50": p50})
        peak, first = p50["peak_rss_bytes"] / 2**20, p50["import_to_first_token_ns"] / 1e6
        note(f"{name} at t={threads}: peak RSS {peak:.0f} MiB, import to first token {first:.0f} ms")
    assert all(answer["peak_rss_bytes"] > models[name].stat().st_size / 2 for name, answers in runs.items() for answer in answers)
