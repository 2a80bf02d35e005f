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

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from edgellm.measure.pytest_fixtures import (
    DEFAULT_MODEL,
    backend,
    energy,
    energy_runs,
    latency_recorder,
    model,
    prompts,
    telemetry,
)
from edgellm.measure.pytest_run import BUDGETS, RECORDER, RUN, Run, named_limits

__all__ = ["backend", "energy", "energy_runs", "latency_recorder", "model", "prompts", "telemetry"]  # fixtures, which pytest finds here

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
        named_limits(item)
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
        if named := named_limits(item):
            pytest.skip(f"the test has a budget for {', '.join(named)} but does not measure: it needs the fixture latency_recorder")
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
