"""The latency of a backend (`--backend`, `--model`, `--threads`): prompts of three lengths, cold starts, memory.

The limits here are the project's claims; budgets.toml replaces them by what each platform is gated on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm import Engine
from edgellm.measure.backends.protocol import Backend
from edgellm.measure.cold import drop_file_cache
from edgellm.measure.fresh_process import FreshProcess, run_in_fresh_process
from edgellm.measure.protocol import NEW_TOKENS, ROUNDS, Prompt
from edgellm.measure.pytest_fixtures import CONTEXT
from edgellm.measure.recorder import LatencyRecorder
from edgellm.measure.statistics import percentile

pytestmark = pytest.mark.perf

DEADLINE_MS = 100
"""For each token: ten tokens a second, about as fast as people speak."""

Prompts = dict[str, Prompt]


@pytest.mark.budget(ttft_p50_ms=50, ttft_p95_ms=100, itl_p50_ms=30, itl_p95_ms=60, itl_mad_ms=10, run_jitter_std_ms=10)
@pytest.mark.parametrize("length", ["short", "medium", "long"])
def test_latency(length: str, backend: Backend, prompts: Prompts, latency_recorder: LatencyRecorder) -> None:
    """Time to first token, inter-token and end-to-end latency, and how much they scatter, with the model warm."""
    figures = latency_recorder.record(backend, prompts[length], rounds=ROUNDS["latency"], deadline_ms=DEADLINE_MS)
    assert figures.values["e2e_p50_ms"] > figures.values["ttft_p50_ms"]


@pytest.mark.budget(cold_start_p50_ms=10000)
@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_cold_start(cache: str, backend: Backend, model: str, prompts: Prompts, latency_recorder: LatencyRecorder) -> None:
    """A fresh process, from its start to its end after one token; the model's file in the page cache, or taken out of it before."""
    file = Path(model)
    if why_not := no_start(backend) or (cache == "cold" and no_cold_file(file)):
        latency_recorder.cannot("cold_start_p50_ms", why_not)
        return
    answers = latency_recorder.time(
        "cold_start",
        lambda: fresh(backend, model, prompts["medium"].texts[0], 1),
        setup=lambda: assert_cold(file) if cache == "cold" else None,
        rounds=ROUNDS["cold_start"],
        warmup_rounds=1,
    )
    note(latency_recorder, backend, answers)
    for part in ("import_ns", "load_ns", "first_token_ns"):
        median_ns = percentile([getattr(answer, part) for answer in answers], 50)
        latency_recorder.add(**{f"{part.removesuffix('_ns')}_p50_ms": median_ns / 1e6})


@pytest.mark.budget(peak_rss_mib=512)
def test_memory(backend: Backend, model: str, prompts: Prompts, latency_recorder: LatencyRecorder) -> None:
    """What a fresh process holds that loads the model, runs the medium prompt and decodes: at most, and when all tokens have come."""
    if why_not := no_start(backend):
        latency_recorder.cannot("peak_rss_mib", why_not)
        return
    answers = latency_recorder.time(
        "fresh_process", lambda: fresh(backend, model, prompts["medium"].texts[0], NEW_TOKENS), rounds=ROUNDS["memory"]
    )
    note(latency_recorder, backend, answers)
    latency_recorder.add(
        peak_rss_mib=max(answer.peak_rss_bytes for answer in answers) / 2**20,
        load_ms=percentile([answer.load_ns for answer in answers], 50) / 1e6,
    )
    if steady := [answer.steady_rss_bytes for answer in answers if answer.steady_rss_bytes is not None]:
        latency_recorder.add(steady_rss_mib=percentile(steady, 50) / 2**20)


# Small, because what a parent holds counts in Linux as held by its child too.
PARENT = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.usefixtures("this_engine")
@pytest.mark.budget(command_rss_over_limit=1)
def test_memory_of_the_command(model_path: Path, prompts: Prompts, latency_recorder: LatencyRecorder, engine: Engine) -> None:
    """`edgellm generate` holds at most 1.35 times the packed weights and 60 MB more."""
    prompt = prompts["medium"].texts[0]
    generate = [
        str(Path(sys.executable).with_name("edgellm")),
        "generate",
        "--model",
        str(model_path),
        "--prompt",
        prompt,
        "--max-tokens",
        "64",
    ]
    (answer,) = latency_recorder.time("command", lambda: subprocess.check_output([sys.executable, "-c", PARENT, *generate]), rounds=1)
    peak, limit = int(answer), 1.35 * engine.memory()["weights"] + 60e6
    latency_recorder.note(peak_rss_bytes=peak, limit_bytes=limit)
    latency_recorder.add(command_rss_over_limit=peak / limit)


def fresh(backend: Backend, model: str, prompt: str, new_tokens: int) -> FreshProcess:
    """The backend's twin in a process of its own."""
    return run_in_fresh_process(backend.name, model, backend.threads or 1, prompt, new_tokens, CONTEXT)


def note(latency_recorder: LatencyRecorder, backend: Backend, answers: list[FreshProcess]) -> None:
    """Who was measured, and everything that the processes said."""
    described = {"name": backend.name, "threads": backend.threads, **backend.description()}
    latency_recorder.note(backend=described, processes=[answer._asdict() for answer in answers])


def no_start(backend: Backend) -> str:
    """Why the backend can't be started anew; empty where it can."""
    return "" if backend.process_id == os.getpid() else f"{backend.name} is a server that runs already"


def no_cold_file(file: Path) -> str:
    """Why the model's file can't be taken out of the page cache; empty where it can."""
    if not file.is_file():
        return f"{file} is no file that could be taken out of the page cache"
    return "" if drop_file_cache(file) == 0 else f"the system does not let go of what it has cached of {file}"


def assert_cold(file: Path) -> None:
    """Take it out; what can't be is an error now, not a warm start called cold."""
    left = drop_file_cache(file)
    assert left == 0, f"{left} bytes of {file} are still cached"
