"""The plugin's fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from edgellm.measure.pytest_run import RECORDER, RUN, named_limits

if TYPE_CHECKING:
    from edgellm.measure.backends.protocol import Backend
    from edgellm.measure.energy.meter import EnergyMeter
    from edgellm.measure.protocol import Prompt
    from edgellm.measure.recorder import LatencyRecorder
    from edgellm.measure.telemetry import Telemetry

DEFAULT_MODEL = "smollm2-135m"
CONTEXT = 1024
"""Tokens that a backend is loaded for: the longest prompt and its answer."""


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
    benchmark.skipped = True  # until the test itself begins: another fixture may skip it, which is no benchmark that went unused
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
        named=named_limits(request.node),
        rounds=Rounds(request.config.getoption("--rounds"), request.config.getoption("--quick")),
        progress=run.progress,
        journal=run.journal,
    )
    run.recorders.append(recorder)
    request.node.stash[RECORDER] = recorder
    return recorder
