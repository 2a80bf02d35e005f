"""Time to first token, inter-token latency, cold start and memory of the real model, on one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgellm import Engine
from tests.perf.conftest import LatencyRecorder
from tests.perf.fresh_process import run_in_fresh_process
from tests.perf.prompt import PROMPT, PROMPT_TOKENS

pytestmark = pytest.mark.perf

ROUNDS = 100
WARMUP_ROUNDS = 5


@pytest.fixture
def described(latency: LatencyRecorder, engine: Engine) -> LatencyRecorder:
    """The recorder, told which engine it measures."""
    latency.context["engine"] = {"model": Path(engine.path).name, "isa": engine.isa, "threads": engine.threads, "context": engine.context}
    return latency


def test_time_to_first_token(engine: Engine, described: LatencyRecorder) -> None:
    """From the prompt's text to the first token of the answer, with nothing of it in the cache."""
    assert len(engine.tokenizer.encode(PROMPT)) == PROMPT_TOKENS
    described.measure(
        "ttft",
        lambda: next(iter(engine.generate(PROMPT, max_tokens=1))),
        setup=engine.reset,
        rounds=ROUNDS,
        warmup_rounds=WARMUP_ROUNDS,
        tokens=PROMPT_TOKENS,
    )


def test_inter_token_latency(engine: Engine, described: LatencyRecorder) -> None:
    """One greedy token after another; the context grows from the prompt's 128 tokens. An end-of-sequence token ends nothing here."""
    engine.reset()
    logits = engine.prefill(engine.tokenizer.encode(PROMPT))

    def step() -> None:
        nonlocal logits
        logits = engine.decode(int(logits.argmax()))

    described.measure("itl", step, rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS)
    assert len(engine.cached_tokens) == PROMPT_TOKENS + WARMUP_ROUNDS + ROUNDS


def test_cold_start(model_path: Path, latency: LatencyRecorder) -> None:
    """A fresh process, from its start to its end after one token; the file is in the page cache."""
    program = "import edgellm, sys; next(iter(edgellm.load(sys.argv[1], threads=1).generate('Once upon a time', max_tokens=1)))"
    command = [sys.executable, "-c", program, os.fspath(model_path)]
    latency.measure("cold_start", lambda: subprocess.run(command, check=True), rounds=5, warmup_rounds=1)


def test_peak_memory(model_path: Path, latency: LatencyRecorder) -> None:
    """Of a process that loads the model, prefills 128 tokens and decodes 64; run as a benchmark, because its JSON holds nothing else."""
    benchmark: Any = latency.benchmark
    answer = benchmark.pedantic(run_in_fresh_process, args=("edgellm", model_path, 1))
    mib = answer["peak_rss_bytes"] / 2**20
    latency.judge("peak_rss", f"{'peak_rss':12}{mib:17.1f} MiB", {"peak_rss_mib": mib}, **answer)


# Small, because what a parent holds counts in Linux as held by its child too.
PARENT = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def test_peak_memory_of_the_command(model_path: Path, latency: LatencyRecorder, engine: Engine) -> None:
    """`edgellm generate` holds at most 1.35 times the packed weights and 60 MB more."""
    generate = [Path(sys.executable).with_name("edgellm"), "generate", "--model", model_path, "--prompt", PROMPT, "--max-tokens", "64"]
    benchmark: Any = latency.benchmark
    answer = benchmark.pedantic(subprocess.check_output, args=([sys.executable, "-c", PARENT, *generate],))
    peak, limit = int(answer), 1.35 * engine.memory()["weights"] + 60e6
    row = f"edgellm generate: peak RSS {peak / 2**20:.1f} MiB"
    latency.judge("command_rss", row, {"command_rss_over_limit": peak / limit}, peak_rss_bytes=peak, limit_bytes=limit)
