"""The latency recorder: rounds through pytest-benchmark, raw samples and fingerprint into its JSON, budgets, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm.measure import budgets
from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.statistics import Jitter, Summary, jitter, summarize

BUDGETS = Path(__file__).parent / "budgets.toml"


@dataclass(frozen=True)
class Line:
    """One row of the table at the end: latencies in milliseconds, `tokens` per round, the budgets' verdicts."""

    name: str
    summary: Summary
    jitter: Jitter
    tokens: int
    verdicts: list[budgets.Verdict]


LINES = pytest.StashKey[list[Line]]()
NOTES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse workers: tests that run beside each other time each other."""
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        raise pytest.UsageError("tests/perf times the machine and cannot share it: run it without -n, e.g. `pytest -p no:xdist tests/perf`")
    config.stash[LINES] = []
    config.stash[NOTES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line per measurement, its verdicts, and what else the tests noted."""
    if lines := config.stash[LINES]:
        terminalreporter.section(f"latency in ms, budgets of {budgets.platform_profile()}")
        for text in latency_table(lines):
            terminalreporter.line(text)
    if notes := config.stash[NOTES]:
        terminalreporter.section("memory and comparisons")
        terminalreporter.line("\n".join(notes))


def latency_table(lines: list[Line]) -> list[str]:
    """Aligned columns; the verdicts stand below their measurement."""
    rows = [f"{'':12}{'rounds':>7}{'p50':>10}{'p95':>10}{'p99':>10}{'std':>9}{'MAD':>9}{'p99/p50':>9}{'max/p50':>9}{'tokens/s':>10}"]
    for line in lines:
        s, j = line.summary, line.jitter
        rows.append(
            f"{line.name:12}{s.n:7}{s.p50:10.3f}{s.p95:10.3f}{s.p99:10.3f}{number(s.std, 9)}{s.mad:9.3f}"
            f"{number(j.p99_over_p50, 9)}{number(j.max_over_p50, 9)}{number(line.tokens * 1e3 / s.p50 if s.p50 else None, 10)}"
        )
        rows += [f"    {verdict}" for verdict in line.verdicts]
    return rows


def number(value: float | None, width: int) -> str:
    """Right-aligned, or "-" for what could not be had."""
    return f"{'-':>{width}}" if value is None else f"{value:{width}.3f}"


@dataclass(frozen=True)
class LatencyRecorder:
    """Runs rounds, keeps what they took, and judges it. `context` is what else the JSON says of the measurement."""

    benchmark: BenchmarkFixture
    limits: Mapping[str, float]
    lines: list[Line]
    context: dict[str, Any]

    def measure(
        self,
        name: str,
        call: Callable[[], object],
        *,
        rounds: int,
        warmup_rounds: int,
        setup: Callable[[], None] | None = None,
        tokens: int = 1,
    ) -> None:
        """Time `call`, which handles `tokens` tokens, `rounds` times after the warm-up; `setup` runs before each, untimed.

        Fails when a budget named `name`_* is broken.
        """
        benchmark: Any = self.benchmark  # its methods carry no types
        benchmark.pedantic(call, setup=setup, rounds=rounds, warmup_rounds=warmup_rounds, iterations=1)
        if benchmark.stats is None:
            pytest.skip("pytest-benchmark is disabled, so nothing was timed")
        samples_ns = [round(seconds * 1e9) for seconds in benchmark.stats.stats.data]
        samples_ms = [ns / 1e6 for ns in samples_ns]
        summary, scatter = summarize(samples_ms), jitter(samples_ms)
        figures = {
            f"{name}_p50_ms": summary.p50,
            f"{name}_p95_ms": summary.p95,
            f"{name}_p99_ms": summary.p99,
            f"{name}_std_ms": summary.std,
            f"{name}_p99_over_p50": scatter.p99_over_p50,
            f"{name}_max_over_p50": scatter.max_over_p50,
        }
        verdicts = budgets.check(self.limits, {key: value for key, value in figures.items() if value is not None}, f"{name}_")
        self.lines.append(Line(name, summary, scatter, tokens, verdicts))
        benchmark.extra_info.update(
            self.context,
            samples_ns=samples_ns,
            warmup_rounds=warmup_rounds,
            tokens_per_round=tokens,
            summary_ms=asdict(summary),
            jitter=asdict(scatter),
            budgets=[asdict(verdict) | {"kept": verdict.kept} for verdict in verdicts],
        )
        if broken := [str(verdict) for verdict in verdicts if not verdict.kept]:
            pytest.fail("; ".join(broken), pytrace=False)


@pytest.fixture(scope="session")
def limits() -> dict[str, float]:
    """The budgets of this kind of machine."""
    return budgets.load_budgets(BUDGETS, budgets.platform_profile())


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """The fingerprint that goes into every result."""
    return fingerprint(Path(__file__).parent)


@pytest.fixture
def latency(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture, limits: dict[str, float], machine: dict[str, Any]
) -> LatencyRecorder:
    """The recorder of one test."""
    context = {"schema": "edgellm-latency", "version": 1, "fingerprint": machine}
    return LatencyRecorder(benchmark, limits, request.config.stash[LINES], context)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something below the table at the end."""
    return request.config.stash[NOTES].append


@pytest.fixture(scope="session")
def results_folder(request: pytest.FixtureRequest) -> Path:
    """Where result files go."""
    return request.config.rootpath / "results"
