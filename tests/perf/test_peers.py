"""EdgeLLM and llama.cpp on models made from the same GGUF, with the same threads and token ids, taking turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

from edgellm.measure import bench
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.backends.protocol import TokenBackend
from edgellm.measure.fresh_process import FreshProcess, run_in_fresh_process
from edgellm.measure.results import Record, ResultsFile
from edgellm.measure.statistics import percentile, standard_deviation
from tests.perf.goals import Board, Goal, goals
from tests.perf.models import PUBLISHED, Models
from tests.perf.prompt import PROMPT
from tests.perf.reading import SETTLE_S, Reading

pytestmark = [pytest.mark.perf, pytest.mark.peers]

pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed: pip install 'edgellm[baselines]'")

CASES = {str(case): case for case in (bench.Case("tg", 64), bench.Case("pp", 128), bench.Case("pp", 512))}


@dataclass(frozen=True)
class Compared:
    """Records of one test: ours, llama.cpp's, and that of reading as many bytes as ours streams."""

    ours: Record
    theirs: Sequence[Record]
    reading: Record | None


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("test", CASES)
def test_speed_and_jitter(
    test: str, threads: int, rounds: int, models: Models, results: ResultsFile, board: Board, note: Callable[[str], None]
) -> None:
    """Every model that a goal for the test names; llama.cpp runs with and without flash attention. Beside decoding, reading alone says
    what no engine that streams as many bytes could do better."""
    wanted = [goal for figure in FIGURES for goal in goals(figure) if goal.test == test and threads in goal.threads]
    with ExitStack() as stack:
        turns, facts = [], []
        for backend, fact in contestants(wanted, threads, CASES[test], models):
            stack.callback(backend.unload)
            turns.append(bench.Turn(backend, CASES[test]))
            facts.append(fact)
        measured = bench.interleave(turns, rounds, settle_s=SETTLE_S)
        records = [results.append(record | fact) for record, fact in zip(measured, facts, strict=True)]
    note(f"{bench.table(records)}\n")
    board.judge(threads, *(judged(goal, records) for goal in wanted))


def contestants(wanted: Sequence[Goal], threads: int, case: bench.Case, models: Models) -> Iterator[tuple[TokenBackend, dict[str, Any]]]:
    """The backends that these goals compare, each with what a record says of its weights."""
    from edgellm.measure.backends.llama_cpp import LlamaCppBackend

    for name in dict.fromkeys(goal.ours for goal in wanted):
        yield (ours := EdgeLLMBackend(models.ours(name), threads=threads, context=case.context)), {"weights": name}
        if case.kind == "tg":
            yield Reading(ours, case), {"weights": name}
    for weights in dict.fromkeys(chain.from_iterable(goal.peers for goal in wanted)):
        path, types = models.peer(weights)
        facts = {"weights": weights, "tensor_types": types.layers, "head_type": types.embedding, "substituted": types.substituted(weights)}
        for flash_attention in (False, True):
            yield LlamaCppBackend(path, threads=threads, context=case.context, flash_attention=flash_attention), facts


def speedup(of: Compared) -> tuple[float, str]:
    """The quickest peer's median time over ours; and over that of reading what ours streams, where that was measured."""
    quickest = min(of.theirs, key=median_ns)
    name = f"{quickest['backend']} {quickest['weights']}"
    detail = f"{median_ns(of.ours) / 1e6:.1f} ms, {size(of.ours)}; {name} {median_ns(quickest) / 1e6:.1f} ms, {size(quickest)}"
    if quickest["substituted"]:
        detail += f" ({quickest['substituted']})"
    if of.reading:
        least = median_ns(of.reading)
        detail += f"; reading alone {least / 1e6:.1f} ms: {median_ns(quickest) / least:.3g} at most"
    return median_ns(quickest) / median_ns(of.ours), detail


def median_ns(record: Record) -> float:
    """Of the rounds."""
    return percentile(record["samples_ns"], 50)


def size(record: Record) -> str:
    """Of the weights."""
    return f"{record['model_size'] / 1e6:.0f} MB"


def itl_p99_over_p50(of: Compared) -> tuple[float, str]:
    """Of the tokens of all rounds together; and of reading what they stream."""
    p50, p99 = (percentile(tokens_ms(of.ours), q) for q in (50, 99))
    detail = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    if of.reading:
        least = tokens_ms(of.reading)
        detail += f"; reading alone {percentile(least, 99) / percentile(least, 50):.3g}"
    return p99 / p50, detail


def itl_std_over_peer(of: Compared) -> tuple[float, str]:
    """Standard deviation of inter-token latency over the least of the peers'; and that of reading."""
    own, least = standard_deviation(tokens_ms(of.ours)) or 0, min(standard_deviation(tokens_ms(peer)) or 0 for peer in of.theirs)
    detail = f"{own:.3f} ms; llama.cpp {least:.3f} ms"
    if of.reading:
        detail += f"; reading alone {standard_deviation(tokens_ms(of.reading)) or 0:.3f} ms"
    return own / least, detail


FIGURES = {function.__name__: function for function in (speedup, itl_p99_over_p50, itl_std_over_peer)}


def judged(goal: Goal, records: Sequence[Record]) -> tuple[Goal, float, str]:
    """The goal with its figure, of the records that it is about."""
    own = {record["backend"]: record for record in records if record["weights"] == goal.ours}
    theirs = [record for record in records if record["backend"].startswith("llama.cpp") and record["weights"] in goal.peers]
    return goal, *FIGURES[goal.figure](Compared(own["edgellm"], theirs, own.get(Reading.name)))


def tokens_ms(record: Record) -> list[float]:
    """What each decoded token of every round took."""
    return [ns / 1e6 for ns in chain.from_iterable(record["itl_ns"])]


@pytest.mark.parametrize("threads", [1, 2])
def test_fresh_process(threads: int, models: Models, results: ResultsFile, note: Callable[[str], None]) -> None:
    """Peak memory and import-to-first-token time of each, five fresh processes taking turns."""
    of_backend = {"edgellm": models.ours(PUBLISHED), "llama.cpp": models.published}
    runs: dict[str, list[FreshProcess]] = {name: [] for name in of_backend}
    for _ in range(5):
        for name, model in of_backend.items():
            runs[name].append(run_in_fresh_process(name, str(model), threads, PROMPT, new_tokens=64, context=192))
    for name, answers in runs.items():
        samples = {key: [getattr(answer, key) for answer in answers] for key in FreshProcess._fields}
        p50 = {key: percentile(values, 50) for key, values in samples.items()}
        results.append({"test": "fresh_process", "backend": name, "n_threads": threads, "samples": samples, "p50": p50})
        peak, first = p50["peak_rss_bytes"] / 2**20, p50["first_token_ns"] / 1e6
        note(f"{name} at t={threads}: peak RSS {peak:.0f} MiB, import to first token {first:.0f} ms")
    assert all(answer.peak_rss_bytes > of_backend[name].stat().st_size / 2 for name, answers in runs.items() for answer in answers)
