"""What the engine reaches by itself, against the goals: first tokens, deep contexts, the second thread, memory bandwidth."""

from __future__ import annotations

import time

import pytest

import edgellm
from edgellm.measure import bench
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.bandwidth import SETTLE_S, ReadProbe
from edgellm.measure.results import ResultsFile
from edgellm.measure.roofline import streamed_bytes
from edgellm.measure.statistics import percentile
from tests.perf.goals import Board, Goal, goals
from tests.perf.models import Models
from tests.perf.prompt import PROMPT

pytestmark = [pytest.mark.perf, pytest.mark.peers]

THREADS = 2
TTFT_ROUNDS = 100


def of(figure: str) -> pytest.MarkDecorator:
    """A test runs once for each goal of this figure, at THREADS threads."""
    return pytest.mark.parametrize("goal", goals(figure), ids=lambda goal: goal.ours)


@of("ttft_p95_ms")
def test_time_to_first_token(goal: Goal, models: Models, results: ResultsFile, board: Board) -> None:
    """From the prompt's text, 128 tokens, to the first token of the answer, with nothing of it in the cache."""
    engine = edgellm.load(models.ours[goal.ours], threads=THREADS)
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
    backend = EdgeLLMBackend(models.ours[goal.ours], threads=THREADS, context=cases[1].context)
    shallow, deep = taking_turns([bench.Turn(backend, case) for case in cases], goal, rounds, results)
    board.judge(THREADS, (goal, deep / shallow, f"{deep:.2f} ms; {shallow:.2f} ms"))


@of("speedup_over_one_thread")
def test_second_thread(goal: Goal, rounds: int, models: Models, results: ResultsFile, board: Board) -> None:
    """Decoding on one thread and on two, in turn."""
    case = bench.Case("tg", 64)
    backends = [EdgeLLMBackend(models.ours[goal.ours], threads=count, context=case.context) for count in (1, THREADS)]
    one, two = taking_turns([bench.Turn(backend, case) for backend in backends], goal, rounds, results)
    board.judge(THREADS, (goal, one / two, f"{one:.2f} ms; {two:.2f} ms"))


@of("share_of_read_bandwidth")
def test_share_of_read_bandwidth(goal: Goal, rounds: int, models: Models, results: ResultsFile, board: Board) -> None:
    """Bytes that a token streams over its time, and what the same threads can read of as many bytes, in turn."""
    case = bench.Case("tg", 64)
    backend = EdgeLLMBackend(models.ours[goal.ours], threads=THREADS, context=case.context)
    assert backend.engine.plan is not None
    streamed = streamed_bytes(backend.engine.plan.ops, position=case.depth + case.tokens // 2)
    probe = ReadProbe(streamed, THREADS)
    read_ns, itl_ns = [], []
    for _ in range(rounds):
        time.sleep(SETTLE_S)
        read_ns += [probe.read_ns() for _ in range(case.tokens // 2)]
        time.sleep(SETTLE_S)
        itl_ns += case.run(backend)
    readable, reached = probe.bytes_per_second(read_ns), streamed * 1e9 / percentile(itl_ns, 50)
    samples = {"read_ns": read_ns, "itl_ns": itl_ns, "streamed_bytes": streamed}
    results.append({"test": "read_bandwidth", "weights": goal.ours, "n_threads": THREADS, **samples})
    detail = f"{streamed / 1e6:.1f} MB; {reached / 1e9:.1f} of {readable / 1e9:.1f} GB/s"
    board.judge(THREADS, (goal, reached / readable, detail))


def taking_turns(turns: list[bench.Turn], goal: Goal, rounds: int, results: ResultsFile) -> list[float]:
    """The median inter-token latency of each turn, in milliseconds."""
    records = [results.append(record | {"weights": goal.ours}) for record in bench.interleave(turns, rounds)]
    return [percentile(record["samples_ns"], 50) / record["n_gen"] / 1e6 for record in records]
