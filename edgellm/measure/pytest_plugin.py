"""The pytest plugin: latency budgets for any backend, in any test suite. `pip install 'edgellm[measure]'` gives it.

    @pytest.mark.budget(ttft_p95_ms=100, itl_p99_over_p50=1.1, run_jitter_std_ms=10)
    def test_latency(backend, prompts, latency_recorder):
        latency_recorder.record(backend, prompts["medium"], rounds=100)

    pytest --backend llama.cpp --model model.gguf --benchmark-json=latency.json

A broken budget fails the test. A test whose budget names what can't be measured is skipped with the reason, never passed. Limits of a file
(`--budgets`, or the nearest budgets.toml above the test) replace those of the test; see `edgellm.measure.budgets`.

A suite whose own conftest.py has an option of one of these names is run without the plugin: `-p no:edgellm`.

Nothing of the package is imported before it is needed: this module is loaded wherever EdgeLLM is installed and pytest runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgellm.measure.backends.protocol import Backend
    from edgellm.measure.budgets import Limits
    from edgellm.measure.energy.meter import EnergyMeter
    from edgellm.measure.journal import Journal
    from edgellm.measure.progress import Progress
    from edgellm.measure.protocol import Prompt
    from edgellm.measure.recorder import LatencyRecorder
    from edgellm.measure.telemetry import Bystanders, Telemetry

BUDGETS = "budgets.toml"
CLAIMS = "claims"
"""The profile of the project's claims: always shown, and what decides where it is asked for by name."""

DEFAULT_MODEL = "smollm2-135m"
CONTEXT = 1024
"""Tokens that a backend is loaded for: the longest prompt and its answer."""

ENERGY = (
    "who measures energy (default: the first that `edgellm energy` finds); later: keep a timetable for a power meter's log, which "
    "`edgellm energy --log` reads afterwards"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a run."""
    group = parser.getgroup("edgellm", "latency of language models (edgellm)")
    group.addoption(
        "--backend",
        metavar="NAME[=URL]",
        default="edgellm",
        help="the engine to measure: edgellm (default), llama.cpp, llama-server, openai=URL, ollama[=URL], onnxruntime, litert",
    )
    group.addoption("--model", metavar="NAME|PATH", help=f"the model, as the engine names its own (default {DEFAULT_MODEL})")
    group.addoption("--threads", type=int, metavar="N", help="threads that the engine computes with (default: one per physical core)")
    group.addoption("--energy", metavar="NAME[=ARGUMENT]", help=ENERGY)
    group.addoption("--platform-profile", metavar="NAME", help="whose budgets decide (default: this platform's; claims: the project's)")
    group.addoption("--rounds", type=int, metavar="N", help="rounds of every measurement (default: as many as each needs)")
    group.addoption("--quick", action="store_true", help="a few rounds of every measurement: to see that all works, not for figures")
    group.addoption("--budgets", type=Path, metavar="FILE", help=f"the limits (default: the nearest {BUDGETS} above each test)")


@dataclass
class Run:
    """What the measurements of one pytest run share."""

    config: pytest.Config
    recorders: list[LatencyRecorder] = field(default_factory=list)
    journal: Journal | None = None
    energy: dict[str, Any] | None = None
    """Who measured it, or why nobody did; None where no test asked."""
    timetable_kept: str = ""
    """How a power meter's log is read for it; empty where none was kept."""

    def limits(self, test: Path) -> tuple[Limits, Limits]:
        """What decides in a test of this file, and the claims; UsageError for a broken file, and for a profile that it lacks."""
        from edgellm.errors import EdgeLLMError
        from edgellm.measure.budgets import Limits, load_limits, own_limits, read_profiles

        path = self.config.getoption("--budgets") or _nearest(test, self.config.rootpath)
        if path is None:
            if self.asked_profile:
                raise pytest.UsageError(
                    f"--platform-profile {self.asked_profile}: there is no {BUDGETS} above {test}; name it: --budgets FILE"
                )
            return Limits(()), Limits(())
        try:
            if self.asked_profile and self.asked_profile not in (known := read_profiles(path)):
                raise pytest.UsageError(f"--platform-profile {self.asked_profile}: {path} has no such profile; it has {', '.join(known)}")
            return load_limits(path, self.profile), own_limits(path, CLAIMS)
        except EdgeLLMError as error:
            raise pytest.UsageError(str(error)) from error

    @property
    def asked_profile(self) -> str | None:
        """By name, if any was."""
        asked: str | None = self.config.getoption("--platform-profile")
        return asked

    @cached_property
    def profile(self) -> str:
        """Whose budgets decide."""
        from edgellm.measure.budgets import platform_profile

        return self.asked_profile or platform_profile()

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The machine and the build."""
        from edgellm.measure.fingerprint import fingerprint

        return fingerprint(self.config.rootpath)

    @cached_property
    def bystanders(self) -> Bystanders:
        """Who else used the processors since the first test that measures."""
        from edgellm.measure.telemetry import Bystanders

        return Bystanders()

    @cached_property
    def progress(self) -> Progress:
        """Shown past pytest's capture."""
        from edgellm.measure.progress import Progress

        capture = self.config.pluginmanager.getplugin("capturemanager")
        cache: pytest.Cache | None = getattr(self.config, "cache", None)  # not with -p no:cacheprovider
        took_s: Mapping[str, float] = cache.get(self.took_s_key, {}) if cache is not None else {}
        return Progress(took_s, capture.global_and_fixture_disabled if capture else nullcontext)

    @property
    def took_s_key(self) -> str:
        """Where pytest's cache holds what tests took in a run like this one."""
        rounds = self.config.getoption("--rounds") or ("quick" if self.config.getoption("--quick") else "all")
        return f"edgellm/took_s/{self.config.getoption('--backend').partition('=')[0]}-{rounds}"

    @property
    def json_path(self) -> Path | None:
        """Where pytest-benchmark writes, if it does."""
        path: Path | None = self.config.getoption("benchmark_json", None)
        return path


RUN = pytest.StashKey[Run]()
RECORDER = pytest.StashKey["LatencyRecorder"]()


def pytest_configure(config: pytest.Config) -> None:
    """Note the marker; UsageError for options that measure nothing."""
    config.addinivalue_line("markers", "budget(**limits): what the test's figures may be at most; see edgellm.measure.budgets")
    for name in ("--rounds", "--threads"):
        if (asked := config.getoption(name)) is not None and asked < 1:
            raise pytest.UsageError(f"{name} {asked}: at least 1 is needed")
    config.stash[RUN] = Run(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let pytest-benchmark see that `latency_recorder` is a benchmark, for --benchmark-only and --benchmark-skip."""
    if config.pluginmanager.hasplugin("benchmark"):
        for item in items:
            fixtures: list[str] = getattr(item, "fixturenames", [])
            if "latency_recorder" in fixtures and "benchmark" not in fixtures:
                fixtures.append("benchmark")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Read every budget before anything is measured, and plan the run."""
    run = session.config.stash[RUN]
    measuring = [item for item in session.items if "latency_recorder" in getattr(item, "fixturenames", ())]
    for item in measuring:
        _named(item)
        run.limits(item.path)
    if measuring and not session.config.getoption("--collect-only"):
        _check_writable(run.json_path)
        run.progress.plan([item.nodeid for item in measuring])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judge the test when it has run through: a broken budget fails it, one without a figure skips it."""
    result = yield
    recorder = item.stash.get(RECORDER, None)
    if recorder is None:
        if _named(item):
            pytest.skip(f"the test has a budget for {', '.join(_named(item))} but does not measure: it needs the fixture latency_recorder")
        return result
    judged = recorder.judge()
    if judged.broken:
        pytest.fail("; ".join(judged.broken), pytrace=False)
    if judged.unmeasured:
        pytest.skip("; ".join(f"{name}: {why}" for name, why in judged.unmeasured.items()))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note how long a test that measures takes, which is what the next run knows of the time left."""
    if "latency_recorder" not in getattr(item, "fixturenames", ()):
        return (yield)
    with item.config.stash[RUN].progress.test(item.nodeid):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Say once what all of the file was measured on, and beside whom; nothing in a file of somebody else's benchmarks alone."""
    run = config.stash[RUN]
    if not run.recorders:
        return
    output_json |= {"fingerprint": run.fingerprint, "bystanders": run.bystanders.shares(), "energy": run.energy}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Around pytest-benchmark's: its file gets lists of numbers in a row; if it can't be written, the rounds are in the journal."""
    run = session.config.stash[RUN]
    written, earlier = False, _written_ns(run.json_path)
    try:
        result = yield
        if run.recorders and _written_ns(run.json_path) != earlier:
            written = _put_numbers_in_a_row(run.json_path)
    except OSError as error:
        kept = f"; the rounds are in {run.journal.path}" if run.journal and run.journal.lines else ""
        raise pytest.UsageError(f"cannot write {run.json_path}: {error.strerror}{kept}") from error
    finally:
        if run.journal:
            run.journal.close(remove=written)
        if run.recorders and hasattr(session.config, "cache"):
            session.config.cache.set(run.took_s_key, run.progress.took_s)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was measured, the verdicts, and who else used the processors."""
    run = config.stash[RUN]
    measured = [recorder for recorder in run.recorders if recorder.judged or recorder.figures.values]  # also what was interrupted
    if measured:
        from edgellm.measure.summary import lines

        terminalreporter.section(f"latency, budgets of {run.profile}")
        for recorder in measured:
            terminalreporter.line("\n".join(lines(recorder)))
        if run.timetable_kept:
            terminalreporter.line(f"\nenergy: {run.timetable_kept}")
        if shares := run.bystanders.shares():
            others, stolen = shares["others"], shares["stolen"]
            terminalreporter.line(f"\nof the processors' time, other processes had {others:.0%} meanwhile, other guests {stolen:.0%}")
    if run.journal and run.journal.broken:
        terminalreporter.line(f"the journal of rounds ended early: {run.journal.broken}")


@pytest.fixture(scope="session")
def model(pytestconfig: pytest.Config) -> str:
    """The model to measure, as `--model` names it; a suite that makes its own overrides this."""
    return pytestconfig.getoption("--model") or DEFAULT_MODEL


@pytest.fixture(scope="session")
def backend(pytestconfig: pytest.Config, model: str) -> Iterator[Backend]:
    """The engine that `--backend` names, loaded. One that can't run here skips its tests, by name; a wrong model fails them."""
    from edgellm.errors import EdgeLLMError
    from edgellm.measure.backends import registry
    from edgellm.measure.backends.protocol import BackendUnavailableError
    from edgellm.runtime.cores import default_threads

    threads = pytestconfig.getoption("--threads") or default_threads()
    try:
        loaded = registry.load(pytestconfig.getoption("--backend"), model, threads=threads, context=CONTEXT)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    except EdgeLLMError as error:
        pytest.fail(str(error), pytrace=False)
    yield loaded
    loaded.unload()


@pytest.fixture(scope="session")
def prompts(backend: Backend) -> dict[str, Prompt]:
    """Prompts of 8, 128 and 512 tokens: "short", "medium", "long"."""
    from edgellm.measure.protocol import make_prompts

    return make_prompts(backend.count_tokens)


@pytest.fixture
def telemetry(backend: Backend) -> Telemetry:
    """What the system says of the backend's process and of the machine."""
    from edgellm.measure.telemetry import Telemetry

    return Telemetry(backend.process_id)


@pytest.fixture
def energy(request: pytest.FixtureRequest) -> Iterator[EnergyMeter]:
    """Measures the energy of calls; where nobody can, the test is skipped with every reason."""
    from edgellm.errors import EdgeLLMError
    from edgellm.measure.energy.detect import choose, detect, find_provider, not_available
    from edgellm.measure.energy.meter import EnergyMeter
    from edgellm.measure.energy.provider import EnergyUnavailableError

    run, asked = request.config.stash[RUN], request.config.getoption("--energy")
    try:
        provider = choose(asked) if asked else find_provider()
        if provider is None:
            raise EnergyUnavailableError(not_available(detect()))
        with EnergyMeter(provider) as meter:
            run.energy = {"provider": provider.name, "kind": provider.kind, "source": provider.source}
            yield meter
    except EnergyUnavailableError as error:
        run.energy = {"provider": None, "why_not": str(error)}
        pytest.skip(f"energy: {error}")
    except EdgeLLMError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def energy_runs(request: pytest.FixtureRequest, latency_recorder: LatencyRecorder) -> Callable[..., None]:
    """energy_runs(run, rounds=50, idle_seconds=10): the machine idle, then runs, each of which says how many tokens it made.

    Their joules per token go into the record of the test; with `--energy later`, the timetable for a power meter's log.
    """
    from edgellm.measure.energy.detect import LATER
    from edgellm.measure.energy.later import how_to_read
    from edgellm.measure.energy.recording import record_runs, record_timetable

    if request.config.getoption("--energy") != LATER:
        return partial(record_runs, latency_recorder, request.getfixturevalue("energy"))
    run = request.config.stash[RUN]
    if run.json_path is None:
        pytest.fail(f"--energy {LATER} keeps its timetable in the results file: name one with --benchmark-json=FILE", pytrace=False)
    run.timetable_kept = how_to_read(run.json_path)
    run.energy = {"provider": None, "why_not": run.timetable_kept}
    return partial(record_timetable, latency_recorder, run.json_path)


@pytest.fixture
def latency_recorder(request: pytest.FixtureRequest) -> LatencyRecorder:
    """See `edgellm.measure.recorder.LatencyRecorder`. Refuses to measure beside other tests."""
    from edgellm.measure.recorder import LatencyRecorder, Rounds

    if hasattr(request.config, "workerinput"):
        pytest.fail("latency is not measured on pytest-xdist's workers, which would time each other: run without -n", pytrace=False)
    if not request.config.pluginmanager.hasplugin("benchmark"):
        pytest.fail("latency_recorder stands on pytest-benchmark: pip install 'edgellm[measure]', and no -p no:benchmark", pytrace=False)
    benchmark = request.getfixturevalue("benchmark")
    if benchmark.disabled:
        pytest.skip("benchmarks are disabled (--benchmark-disable), so nothing is measured")
    run = request.config.stash[RUN]
    limits, claims = run.limits(request.node.path)
    _ = run.bystanders  # counted from the first test that measures
    if run.json_path and run.journal is None:
        from edgellm.measure.journal import Journal

        run.journal = Journal(run.json_path.with_suffix(".rounds.jsonl"), run.fingerprint)
    recorder = LatencyRecorder(
        benchmark=benchmark,
        test=request.node.name,
        limits=limits,
        claims=claims,
        named=_named(request.node),
        rounds=Rounds(request.config.getoption("--rounds"), request.config.getoption("--quick")),
        progress=run.progress,
        journal=run.journal,
    )
    run.recorders.append(recorder)
    request.node.stash[RECORDER] = recorder
    return recorder


def _named(item: pytest.Item) -> dict[str, float]:
    """The limits that the test's markers give, the closest marker's last word; UsageError for what is no limit."""
    markers = list(item.iter_markers("budget"))
    if not markers:  # as of every test of a suite that measures nothing
        return {}
    from edgellm.errors import InvalidRequestError
    from edgellm.measure.budgets import checked_limits

    named: dict[str, float] = {}
    for marker in reversed(markers):
        if marker.args:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.budget takes limits by name: budget(ttft_p95_ms=100)")
        try:
            named |= checked_limits(f"{item.nodeid}: @pytest.mark.budget", marker.kwargs)
        except InvalidRequestError as error:
            raise pytest.UsageError(str(error)) from error
    return named


def _nearest(test: Path, root: Path) -> Path | None:
    """The budgets.toml closest to the test, from its folder up to the root of the run."""
    for folder in test.parents:
        if (folder / BUDGETS).is_file():
            return folder / BUDGETS
        if folder == root:
            break
    return None


def _check_writable(path: Path | None) -> None:
    """UsageError where the results could not be written, which is better known before they are measured."""
    if path is None:
        return
    existed = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise pytest.UsageError(f"--benchmark-json {path} can't be written: {error.strerror}") from error


def _written_ns(path: Path | None) -> int | None:
    """When the file was written; None where there is none."""
    return path.stat().st_mtime_ns if path and path.is_file() else None


def _put_numbers_in_a_row(path: Path | None) -> bool:
    """Write the file again, readably; whether there is one, whole."""
    if path is None or not path.is_file() or not path.stat().st_size:
        return False
    import json

    from edgellm.formats.atomic import replacing
    from edgellm.measure.results import as_json

    document = json.loads(path.read_text(encoding="utf-8"))
    with replacing(path) as file:
        file.write(as_json(document).encode())
    return True
