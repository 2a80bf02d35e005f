"""What the engine reaches by itself, against the goals: first tokens, deep contexts, the second thread, memory bandwidth."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np
import pytest

from edgellm import Engine
from edgellm.measure import bench
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.results import ResultsFile
from edgellm.measure.statistics import percentile
from tests.perf.goals import Board, Goal, goals
from tests.perf.models import Models
from tests.perf.prompt import PROMPT
from tests.perf.reading import SETTLE_S, Reading, streamed_bytes

pytestmark = [pytest.mark.perf, pytest.mark.peers]

THREADS = 2
TTFT_ROUNDS = 100
SHARE, SECOND_THREAD = "share_of_read_bandwidth", "speedup_over_one_thread"


def of(figure: str) -> pytest.MarkDecorator:
    """A test runs once for each goal of this figure, at THREADS threads."""
    return pytest.mark.parametrize("goal", goals(figure), ids=lambda goal: goal.ours)


@of("ttft_p95_ms")
def test_time_to_first_token(goal: Goal, models: Models, results: ResultsFile, board: Board) -> None:
    """From the prompt's text, 128 tokens, to the first token of the answer, with nothing of it in the cache."""
    engine = Engine(models.ours(goal.ours), threads=THREADS, fixed_team=True)
    samples_ns = []
    for _ in range(1 + TTFT_ROUNDS):
        engine.reset()
        start = time.perf_counter_ns()
        next(iter(engine.generate(PROMPT, max_tokens=1)))
        samples_ns.append(time.perf_counter_ns() - start)
    record = results.append({"test": "ttft", "weights": goal.ours, "n_threads": THREADS, "samples_ns": samples_ns[1:]})
    p50, p95 = (percentile(record["samples_ns"], q) / 1e6 for q in (50, 95))
    board.judge(THREADS, (goal, p95, f"p50 {p50:.1f} ms"))


@of("time_at_2048_over_128")
def test_deep_context(goal: Goal, rounds: int, models: Models, results: ResultsFile, board: Board) -> None:
    """Decoding after 2048 tokens and after 128, in turn."""
    cases = [bench.Case("tg", 32, depth) for depth in (128, 2048)]
    backend = EdgeLLMBackend(models.ours(goal.ours), threads=THREADS, context=cases[1].context)
    turns = [bench.Turn(backend, case) for case in cases]
    records = [results.append(record | {"weights": goal.ours}) for record in bench.interleave(turns, rounds)]
    backend.unload()
    shallow, deep = (percentile(record["samples_ns"], 50) / record["n_gen"] / 1e6 for record in records)
    board.judge(THREADS, (goal, deep / shallow, f"{deep:.2f} ms; {shallow:.2f} ms"))


@pytest.mark.parametrize("name", dict.fromkeys(goal.ours for goal in [*goals(SHARE), *goals(SECOND_THREAD)]))
def test_decoding_beside_reading(name: str, rounds: int, models: Models, results: ResultsFile, board: Board) -> None:
    """Decoding on one thread and on two, and reading as many bytes as a token streams on as many threads, all in turn."""
    case = bench.Case("tg", 64)
    with ExitStack() as stack:
        engines = [EdgeLLMBackend(models.ours(name), threads=threads, context=case.context) for threads in (1, THREADS)]
        for backend in engines:
            stack.callback(backend.unload)
        turns = [bench.Turn(backend, case) for engine in engines for backend in (engine, Reading(engine, case))]
        records = [results.append(record | {"weights": name}) for record in bench.interleave(turns, rounds, settle_s=SETTLE_S)]
        nbytes = streamed_bytes(engines[0], case)
    one, one_read, team, team_read = (percentile(np.concatenate(record["itl_ns"]), 50) for record in records)
    detail = f"{nbytes / 1e6:.1f} MB; {nbytes / team:.1f} of {nbytes / team_read:.1f} GB/s"
    share = [(goal, team_read / team, detail) for goal in goals(SHARE) if goal.ours == name]
    detail = f"{one / 1e6:.2f} ms; {team / 1e6:.2f} ms; reading {one_read / team_read:.2f} x"
    gain = [(goal, one / team, detail) for goal in goals(SECOND_THREAD) if goal.ours == name]
    board.judge(THREADS, *share, *gain)
