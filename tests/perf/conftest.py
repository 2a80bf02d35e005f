"""The latency recorder: rounds through pytest-benchmark, raw samples and fingerprint into its JSON, budgets, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm.measure import budgets
from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.results import ResultsFile
from edgellm.measure.statistics import jitter, summarize
from edgellm.measure.telemetry import Bystanders
from tests.perf.goals import Board
from tests.perf.models import Models
from tests.perf.tables import Tables

BUDGETS = Path(__file__).parent / "budgets.toml"
CLAIMS = "claims"


HEAD = f"{'':12}{'rounds':>7}{'p50':>10}{'p95':>10}{'p99':>10}{'std':>9}{'MAD':>9}{'p99/p50':>9}{'max/p50':>9}{'tokens/s':>10}"
LINES = pytest.StashKey[list[str]]()
NOTES = pytest.StashKey[list[str]]()
TABLES = pytest.StashKey[Tables]()
BYSTANDERS = pytest.StashKey[Bystanders]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=10, help="rounds of what takes turns, after one of warm-up (default 10)")
    parser.addoption("--budgets", metavar="PROFILE", help=f"gate on this profile of {BUDGETS.name}; this platform's if not given")


def profile(config: pytest.Config) -> str:
    """Whose budgets decide; UsageError for one that was asked for and does not exist."""
    asked = config.getoption("--budgets", default=None)
    if asked and not budgets.own_budgets(BUDGETS, asked):
        raise pytest.UsageError(f"--budgets {asked}: {BUDGETS.name} has no such profile")
    return asked or budgets.platform_profile()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse workers: tests that run beside each other time each other."""
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        raise pytest.UsageError("tests/perf times the machine and cannot share it: run it without -n, e.g. `pytest -p no:xdist tests/perf`")
    profile(config)
    if (asked := config.getoption("--rounds", 1)) < 1:
        raise pytest.UsageError(f"--rounds {asked}: at least one round is needed")
    config.stash[LINES] = []
    config.stash[NOTES] = []
    config.stash[TABLES] = Tables()
    config.stash[BYSTANDERS] = Bystanders()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    """Say once what all of the file was measured on, and beside whom."""
    output_json |= {"fingerprint": fingerprint(Path(__file__).parent), "bystanders": config.stash[BYSTANDERS].shares()}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line per measurement, its verdicts, and what else the tests noted."""
    if lines := config.stash[LINES]:
        terminalreporter.section(f"latency in ms, budgets of {profile(config)}")
        terminalreporter.line("\n".join([HEAD, *lines]))
    if notes := config.stash[NOTES]:
        terminalreporter.section("comparisons")
        terminalreporter.line("\n".join(notes))
    for title, table in config.stash[TABLES].shown().items():
        terminalreporter.section(title)
        terminalreporter.line(table)
    if shares := config.stash[BYSTANDERS].shares():
        others, stolen = shares["others"], shares["stolen"]
        terminalreporter.line(
            f"\nof the processors' time, other processes had {others:.0%} meanwhile, other guests of the machine {stolen:.0%}"
        )


def number(value: float | None, width: int) -> str:
    """Right-aligned, or "-" for what could not be had."""
    return f"{'-':>{width}}" if value is None else f"{value:{width}.3f}"


@dataclass(frozen=True)
class LatencyRecorder:
    """Runs rounds, keeps what they took, and judges it: a broken limit fails the test, a claim that does not hold here is only shown.

    `lines` is the table, `context` what else the JSON says of the measurement.
    """

    benchmark: BenchmarkFixture
    limits: Mapping[str, float]
    claims: Mapping[str, float]
    lines: list[str]
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
        s, j = summarize(samples_ms), jitter(samples_ms)
        tokens_per_second = tokens * 1e3 / s.p50 if s.p50 else None
        row = (
            f"{name:12}{s.n:7}{s.p50:10.3f}{s.p95:10.3f}{s.p99:10.3f}{number(s.std, 9)}{s.mad:9.3f}"
            f"{number(j.p99_over_p50, 9)}{number(j.max_over_p50, 9)}{number(tokens_per_second, 10)}"
        )
        figures = {
            f"{name}_p50_ms": s.p50,
            f"{name}_p95_ms": s.p95,
            f"{name}_p99_ms": s.p99,
            f"{name}_std_ms": s.std,
            f"{name}_mad_ms": s.mad,
            f"{name}_p99_over_p50": j.p99_over_p50,
            f"{name}_max_over_p50": j.max_over_p50,
        }
        self.judge(
            name,
            row,
            {key: value for key, value in figures.items() if value is not None},
            samples_ns=samples_ns,
            warmup_rounds=warmup_rounds,
            tokens_per_round=tokens,
            tokens_per_second=tokens_per_second,
            summary_ms=asdict(s),
            jitter=asdict(j),
        )

    def judge(self, name: str, row: str, figures: Mapping[str, float], **facts: object) -> None:
        """Put a row into the table and the facts into the JSON, with the verdicts on the budgets named `name`_*; fail if one is broken."""
        verdicts = budgets.check(self.limits, figures, f"{name}_")
        claims = [budgets.Verdict(figure, figures[figure], limit) for figure, limit in self.claims.items() if figure in figures]
        self.lines.extend([row, *(f"    {verdict}" for verdict in verdicts), *(f"    claim: {verdict}" for verdict in claims)])
        recorded = {
            key: [asdict(verdict) | {"kept": verdict.kept} for verdict in judged]
            for key, judged in (("budgets", verdicts), ("claims", claims))
        }
        self.benchmark.extra_info.update(self.context, **facts, **recorded)
        if broken := [str(verdict) for verdict in verdicts if not verdict.kept]:
            pytest.fail("; ".join(broken), pytrace=False)


@pytest.fixture(scope="session")
def limits(request: pytest.FixtureRequest) -> dict[str, float]:
    """The budgets that decide."""
    return budgets.load_budgets(BUDGETS, profile(request.config))


@pytest.fixture(scope="session")
def claims() -> dict[str, float]:
    """The budgets that are only shown."""
    return budgets.own_budgets(BUDGETS, CLAIMS)


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """The fingerprint that goes into every result."""
    return fingerprint(Path(__file__).parent)


@pytest.fixture
def latency(
    request: pytest.FixtureRequest,
    benchmark: BenchmarkFixture,
    limits: dict[str, float],
    claims: dict[str, float],
    machine: dict[str, Any],
) -> LatencyRecorder:
    """The recorder of one test."""
    context = {"schema": "edgellm-latency", "version": 1, "provenance": "measured", "fingerprint": machine}
    return LatencyRecorder(benchmark, limits, claims, request.config.stash[LINES], context)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something below the table at the end."""
    return request.config.stash[NOTES].append


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How often what takes turns is measured."""
    return int(request.config.getoption("--rounds"))


@pytest.fixture(scope="session")
def models(model_path: Path, model_gguf: Path) -> Models:
    """The models that are compared."""
    return Models(published=model_gguf, lossless=model_path)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest, machine: dict[str, Any]) -> Iterator[ResultsFile]:
    """What the comparison with other engines writes."""
    with ResultsFile(request.config.rootpath / "results" / "peers.json", kind="peers", fingerprint=machine) as file:
        yield file
        file.append({"test": "bystanders", "shares": request.config.stash[BYSTANDERS].shares()})


@pytest.fixture
def tables(request: pytest.FixtureRequest) -> Tables:
    """Tables to be printed at the end."""
    return request.config.stash[TABLES]


@pytest.fixture
def board(request: pytest.FixtureRequest, tables: Tables, results: ResultsFile) -> Board:
    """Where goals get their verdicts."""
    return Board(tables, results.append, strict=profile(request.config) == CLAIMS)
