"""Every engine that can be had here, under one protocol: the same prompts, the same number of tokens, taking turns round by round.

Its figures are those of `edgellm.measure.figures`. This engine takes two turns in every round, so that a ratio is told from what a second
copy of the same engine gives. What each makes of the model's weights is its own business, and stands beside its figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from edgellm.errors import ModelFileError
from edgellm.measure.backends import registry
from edgellm.measure.backends.protocol import Backend, BackendUnavailableError
from edgellm.measure.compare import Ratio, ratios
from edgellm.measure.figures import figures_of_rounds
from edgellm.measure.fresh_process import run_in_fresh_process
from edgellm.measure.noise import NoiseProbe, describe
from edgellm.measure.protocol import NEW_TOKENS, ROUNDS, WARMUP_ROUNDS, Prompt, Round, make_prompts, run_round, settle
from edgellm.measure.pytest_fixtures import CONTEXT
from edgellm.measure.results import ResultsFile
from edgellm.measure.statistics import percentile
from edgellm.measure.telemetry import Telemetry
from edgellm.runtime.cores import default_threads
from tests.conftest import ROOT
from tests.perf.tables import Tables

pytestmark = [pytest.mark.perf, pytest.mark.backends]

OURS, OURS_AGAIN = "edgellm", "edgellm again"
NAMES = (OURS, OURS_AGAIN, "llama.cpp", "llama-server", "onnxruntime", "litert", "ollama")
OLLAMA_MODEL = "smollm2:135m"
"""As its library names it: other weights than the file's, which its record says."""

SETTLE_S = 0.2
"""Rest before each turn: threads spin for a while after their work, and would be in the other's way."""

HEAD = ("backend", "TTFT p50", "p95", "ITL p50", "p99", "p99/p50", "run std", "t/s", "e2e over ours", "verdict", "peak RSS", "text")


@dataclass
class Contestant:
    """A backend and what it did.

    model: as it names its own; prompts: cut by its own tokenizer; texts: what it said in each round
    """

    name: str
    backend: Backend
    model: str
    prompts: dict[str, Prompt]
    rounds: list[Round] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    telemetry: list[dict[str, Any]] = field(default_factory=list)

    def take_turn(self, number: int, length: str) -> None:
        """One round."""
        time.sleep(SETTLE_S)
        settle(self.backend, self.prompts[length], number)
        said: list[str] = []
        telemetry = Telemetry(self.backend.process_id)
        telemetry.begin()
        self.rounds.append(run_round(Noting(self.backend, said), self.prompts[length].text(number), NEW_TOKENS))
        self.telemetry.append(telemetry.end())
        self.texts.append("".join(said))

    def forget(self) -> None:
        """The rounds so far were for warming up."""
        self.rounds.clear()
        self.texts.clear()
        self.telemetry.clear()

    @property
    def e2e_ns(self) -> list[list[int]]:
        """Of each round, as `ratios` wants it."""
        return [[each.e2e_ns] for each in self.rounds]


class Noting:
    """A backend whose words are kept."""

    def __init__(self, backend: Backend, said: list[str]) -> None:
        self.name, self.threads, self.process_id = backend.name, backend.threads, backend.process_id
        self.count_tokens, self.description, self.unload = backend.count_tokens, backend.description, backend.unload
        self._backend, self._said = backend, said

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        for text in self._backend.generate(prompt, max_tokens):
            self._said.append(text)
            yield text


@pytest.fixture(scope="module")
def results(machine: dict[str, Any]) -> Iterator[ResultsFile]:
    with ResultsFile(ROOT / "results" / "backends.json", kind="backends", fingerprint=machine) as file:
        yield file


@pytest.mark.parametrize("length", ["medium"])
def test_backends(
    length: str, model_path: Path, model_gguf: Path, pytestconfig: pytest.Config, results: ResultsFile, tables: Tables
) -> None:
    """As many rounds as latency needs, or `--rounds`; the machine's own noise between them."""
    threads = pytestconfig.getoption("--threads") or default_threads()
    count = pytestconfig.getoption("--rounds") or (10 if pytestconfig.getoption("--quick") else ROUNDS["latency"])
    with ExitStack() as stack:
        contestants, missing = load(stack, threads, model_path, model_gguf)
        probe = NoiseProbe(threads, contestants[0].backend.description()["model_size"])
        samples = []
        for number in tqdm(range(WARMUP_ROUNDS + count), desc=f"{length} prompt, t={threads}", unit="round", leave=False):
            if number == WARMUP_ROUNDS:
                for contestant in contestants:
                    contestant.forget()
            samples.append(probe.sample())
            for contestant in contestants if number % 2 else reversed(contestants):
                contestant.take_turn(number, length)
        ours, again = contestants[:2]
        resolution = ratios(ours.e2e_ns, again.e2e_ns)["p50"].resolution
        for contestant in contestants:
            ratio = ratios(ours.e2e_ns, contestant.e2e_ns)["p50"]
            record = results.append(described(contestant, length, ratio, resolution, ours))
            tables.add(f"{length} prompt and {NEW_TOKENS} tokens, {threads} threads, {count} rounds, ms", HEAD, row(record))
    for name, why in missing.items():
        results.append({"test": "backends", "backend": {"name": name}, "unavailable": why})
        tables.add("not measured here", ("backend", "why"), (name, why.splitlines()[0]))
    noise = describe(samples, percentile([each.e2e_ns for each in ours.rounds], 50))
    results.append({"test": "noise", "prompt": length, "figures": noise, "samples": samples})
    assert len({len(contestant.rounds) for contestant in contestants}) == 1


def load(stack: ExitStack, threads: int, model_path: Path, model_gguf: Path) -> tuple[list[Contestant], dict[str, str]]:
    """All that can run here, this engine first and twice, and why the others cannot."""
    contestants, missing = [], {}
    for name in NAMES:
        model = {OURS: str(model_path), OURS_AGAIN: str(model_path), "ollama": OLLAMA_MODEL}.get(name, str(model_gguf))
        try:
            backend = registry.load(OURS if name == OURS_AGAIN else name, model, threads=threads, context=CONTEXT)
        except (BackendUnavailableError, ModelFileError) as error:
            missing[name] = str(error)
            continue
        stack.callback(backend.unload)
        contestants.append(Contestant(name, backend, model, make_prompts(backend.count_tokens)))
    return contestants, missing


def described(contestant: Contestant, length: str, ratio: Ratio, resolution: float | None, ours: Contestant) -> dict[str, Any]:
    """A record: every round, what they come to, and how that compares."""
    figures, prompt = figures_of_rounds(contestant.rounds), contestant.prompts[length]
    backend = contestant.backend
    return {
        "test": "backends",
        "backend": {**backend.description(), "name": contestant.name, "threads": backend.threads},
        "prompt": {"name": prompt.name, "tokens": prompt.tokens, "counted": prompt.counted},
        "new_tokens": NEW_TOKENS,
        "figures": figures.values,
        "intervals": figures.intervals,
        "rounds_needed": figures.rounds_needed,
        "e2e_over_ours": {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "resolution": resolution},
        "verdict": ratio.verdict(resolution),
        "peak_rss_mib": peak_rss_mib(contestant, length),
        "same_text_share": sum(mine == theirs for mine, theirs in zip(ours.texts, contestant.texts, strict=True)) / len(ours.texts),
        "rounds": [{**each.record(), "telemetry": cost} for each, cost in zip(contestant.rounds, contestant.telemetry, strict=True)],
        "texts": contestant.texts,
    }


def peak_rss_mib(contestant: Contestant, length: str) -> float | None:
    """Of an engine in this process, in one of its own; of a server, its process's so far."""
    backend = contestant.backend
    if backend.process_id == os.getpid():
        prompt = contestant.prompts[length].texts[0]
        answer = run_in_fresh_process(backend.name, contestant.model, backend.threads or 1, prompt, NEW_TOKENS, CONTEXT)
        return answer.peak_rss_bytes / 2**20
    peak = contestant.telemetry[-1].get("peak_rss_bytes")
    return None if peak is None else peak / 2**20


def row(record: dict[str, Any]) -> tuple[str, ...]:
    """Of the table."""
    values, ratio, peak = record["figures"], record["e2e_over_ours"], record["peak_rss_mib"]
    names = ("ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms", "itl_p99_ms", "itl_p99_over_p50", "run_jitter_std_ms")
    interval = "" if ratio["low"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return (
        record["backend"]["name"],
        *(f"{values[name]:.2f}" for name in names),
        f"{values['tokens_per_second']:.0f}",
        f"{ratio['ratio']:.2f}{interval}",
        record["verdict"],
        "n/a" if peak is None else f"{peak:.0f} MiB",
        f"{record['same_text_share']:.0%} the same",
    )
