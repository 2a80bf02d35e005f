"""The plugin in a suite of somebody else's: what it refuses, skips, fails and keeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgellm.cli import main

pytest_plugins = "pytester"

CONFTEST = """
import time
import pytest

class Sleeper:
    name, threads, process_id = "sleeper", 1, None
    def __init__(self):
        self.calls = 0
    def generate(self, prompt, max_tokens):
        for number in range(max_tokens):
            time.sleep(0.0005)
            yield "x"
    def count_tokens(self, text):
        return len(text.split())
    def description(self):
        return {"model_size": None, "settings": {}}
    def unload(self):
        pass

@pytest.fixture(scope="session")
def backend():
    return Sleeper()
"""
RECORD = "latency_recorder.record(backend, prompts['short'], new_tokens=4, rounds=5, warmup_rounds=1, deadline_ms=1000)"
TEST = f"""
import pytest

@pytest.mark.budget(ttft_p95_ms=1000)
def test_quick(backend, prompts, latency_recorder):
    {RECORD}
"""

METER = """
from edgellm.measure.energy.meter import EnergyMeter

class Counter:
    name, kind, source, sample_rate_hz = "made-up", "estimated", "a test", None
    shortest_window_s, longest_window_s = 0.0, 1e9
    def read(self):
        return (int(time.perf_counter() * 5e6),)
    def joules(self, before, after):
        return (after[0] - before[0]) / 1e6

@pytest.fixture
def energy():
    with EnergyMeter(Counter()) as meter:
        yield meter
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite that measures an engine which sleeps."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # this test may run on one, the suite does not
    pytester.makeconftest(CONFTEST)
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-p", "no:xdist", "--benchmark-quiet", *arguments)


def benchmarks(suite: pytest.Pytester) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((suite.path / "latency.json").read_text())["benchmarks"]
    return found


def test_what_a_kept_budget_shows_and_writes(suite: pytest.Pytester) -> None:
    suite.makepyfile(TEST)
    done = run(suite, "--benchmark-json=latency.json")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["test_quick (sleeper, 1 threads, 8 tokens and 4 more, 5 rounds)", "*ttft_p95_ms * <= 1000: pass*"])
    (benchmark,) = benchmarks(suite)
    info = benchmark["extra_info"]
    assert (info["schema"], info["version"], info["provenance"], info["test"]) == ("edgellm-latency", 2, "measured", "test_quick")
    assert info["prompt"] == {"name": "short", "tokens": 8, "counted": True}
    assert [len(each["itl_ns"]) for each in info["rounds"]] == [3] * 5
    assert all(each["e2e_ns"] == each["ttft_ns"] + sum(each["itl_ns"]) for each in info["rounds"])
    assert all({"telemetry", "noise", "prompt_tokens"} <= set(each) for each in info["rounds"])
    assert info["figures"]["itl_deadline_misses"] == 0
    assert info["figures"]["e2e_p50_ms"] == pytest.approx(sorted(each["e2e_ns"] for each in info["rounds"])[2] / 1e6)
    low, high = info["intervals"]["ttft_p95_ms"]
    assert low > 0.5  # each token takes so long
    assert (high, info["rounds_needed"]["ttft_p95_ms"]) == (None, 59)
    assert [verdict["kept"] for verdict in info["budgets"]] == [True]
    assert not list(suite.path.glob("*.jsonl"))  # the file has all of it


NO_PASS = [
    ("ttft_p50_ms=0.01", RECORD, "failed", "ttft_p50_ms * > 0.01: FAIL"),
    ("tokens_per_second=1e9", RECORD, "failed", "tokens_per_second * < 1e+09: FAIL"),
    ("joules_per_token=1", RECORD, "skipped", "joules_per_token: it was not measured; measured: e2e_"),
    ("ttft_p95_ms=1", "pass", "skipped", "ttft_p95_ms: it was not measured; measured: nothing"),
    ("watts=1", "latency_recorder.cannot('watts', 'no meter')", "skipped", "watts: no meter"),
    ("x=1", "latency_recorder.add(x=2.0)", "failed", "x 2 > 1: FAIL"),
]


@pytest.mark.parametrize(("budget", "body", "outcome", "line"), NO_PASS, ids=[case[0] for case in NO_PASS])
def test_what_is_not_kept_or_not_measured_does_not_pass(suite: pytest.Pytester, budget: str, body: str, outcome: str, line: str) -> None:
    suite.makepyfile(f"import pytest\n\n@pytest.mark.budget({budget})\ndef test(backend, prompts, latency_recorder):\n    {body}")
    done = run(suite, "-rsf")
    done.assert_outcomes(**{outcome: 1})
    done.stdout.fnmatch_lines([f"*{line}*"])


def test_a_budget_without_a_recorder_does_not_pass(suite: pytest.Pytester) -> None:
    suite.makepyfile("import pytest\n\n@pytest.mark.budget(ttft_p95_ms=1)\ndef test():\n    pass")
    done = run(suite, "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*has a budget for ttft_p95_ms but does not measure*"])


def test_a_broken_budget_is_in_the_file(suite: pytest.Pytester) -> None:
    suite.makepyfile(TEST.replace("1000", "0.01"))
    run(suite, "--benchmark-json=latency.json").assert_outcomes(failed=1)
    assert [verdict["kept"] for verdict in benchmarks(suite)[0]["extra_info"]["budgets"]] == [False]


BUDGETS = """
[default]
ttft_p95_ms = 2000
[mine]
ttft_p95_ms = 0.01
[claims.test_quick]
e2e_p50_ms = 0.02
"""


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ([], "<= 2000: pass"),
        (["--platform-profile", "mine"], "> 0.01: FAIL"),
        (["--budgets", "other.toml"], "<= 3000: pass"),
        (["--platform-profile", "claims"], "<= 2000: pass"),
    ],
)
def test_a_file_replaces_the_tests_limits(suite: pytest.Pytester, options: list[str], limit: str) -> None:
    (suite.path / "budgets.toml").write_text(BUDGETS)
    (suite.path / "other.toml").write_text("[default]\nttft_p95_ms = 3000\n")
    suite.makepyfile(TEST)
    done = run(suite, *options)
    done.stdout.fnmatch_lines([f"*ttft_p95_ms * {limit}*"])
    if "other.toml" not in options:
        done.stdout.fnmatch_lines(["*claim: e2e_p50_ms * > 0.02: FAIL*"])
    assert done.ret == (1 if {"mine", "claims"} & set(options) else 0)  # a claim only decides where claims were asked for


def test_a_profile_without_a_file_is_refused(suite: pytest.Pytester) -> None:
    suite.makepyfile(TEST)
    done = run(suite, "--platform-profile", "claims")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--platform-profile claims: there is no budgets.toml above *; name it: --budgets FILE"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--platform-profile", "mien"], "*--platform-profile mien: *budgets.toml has no such profile; it has default, mine, claims"),
        (["--budgets", "absent.toml"], "*cannot read the budgets absent.toml*"),
        (["--rounds", "0"], "*--rounds 0: at least 1 is needed"),
        (["--threads", "-1"], "*--threads -1: at least 1 is needed"),
    ],
)
def test_refused_before_anything_is_measured(suite: pytest.Pytester, options: list[str], problem: str) -> None:
    (suite.path / "budgets.toml").write_text(BUDGETS)
    suite.makepyfile(TEST)
    done = run(suite, *options)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([problem])


@pytest.mark.parametrize(("marker", "problem"), [("budget(100)", "takes limits by name"), ("budget(x=-1)", "x = -1; a budget is a finite")])
def test_a_marker_that_is_no_budget(suite: pytest.Pytester, marker: str, problem: str) -> None:
    suite.makepyfile(f"import pytest\n\n@pytest.mark.{marker}\ndef test(latency_recorder):\n    pass")
    done = run(suite)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"*{problem}*"])


def test_workers_do_not_measure(suite: pytest.Pytester) -> None:
    suite.makepyfile(TEST)
    done = suite.runpytest_subprocess("-n", "2", "-W", "ignore")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*latency is not measured on pytest-xdist's workers*"])


def test_a_suite_without_pytest_benchmark_is_told(suite: pytest.Pytester) -> None:
    suite.makepyfile(TEST)
    done = suite.runpytest_subprocess("-p", "no:xdist", "-p", "no:benchmark")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*latency_recorder stands on pytest-benchmark: pip install 'edgellm?measure?'*"])


@pytest.mark.parametrize(("options", "rounds"), [(["--quick"], 10), (["--rounds", "3"], 3), (["--rounds", "3", "--quick"], 3)])
def test_how_many_rounds(suite: pytest.Pytester, options: list[str], rounds: int) -> None:
    """A single one stays one: such a test has its rounds inside."""
    single = "def test_single(latency_recorder):\n    (answer,) = latency_recorder.time('x', lambda: 1, rounds=1)"
    suite.makepyfile(TEST.replace("rounds=5", "rounds=12") + single)
    run(suite, "--benchmark-json=latency.json", *options).assert_outcomes(passed=2)
    assert len(benchmarks(suite)[0]["extra_info"]["rounds"]) == rounds


BREAKS = f"""
import pytest
from edgellm.measure.backends.protocol import BackendFailedError

def test_breaks(backend, prompts, latency_recorder):
    whole = backend.generate
    def generate(prompt, max_tokens):
        backend.calls += max_tokens > 2  # what comes between rounds asks for less
        if backend.calls == 4:
            raise EXCEPTION
        yield from whole(prompt, max_tokens)
    backend.generate = generate
    {RECORD}
"""


@pytest.mark.parametrize("exception", ["BackendFailedError('the server went away')", "KeyboardInterrupt", "MemoryError"])
def test_rounds_before_an_interruption_are_kept(suite: pytest.Pytester, exception: str) -> None:
    """The fourth call, less one of warm-up: two rounds."""
    suite.makepyfile(BREAKS.replace("EXCEPTION", exception))
    run(suite, "--benchmark-json=latency.json")
    info = benchmarks(suite)[0]["extra_info"]
    assert len(info["rounds"]) == 2
    assert info["interrupted"].startswith(exception.split("(", maxsplit=1)[0])
    assert info["figures" if "figures" in info else "rounds"]


def test_an_interruption_while_warming_up_leaves_a_sound_file(suite: pytest.Pytester) -> None:
    suite.makepyfile(BREAKS.replace("EXCEPTION", "KeyboardInterrupt").replace("== 4", "== 1"))
    done = run(suite, "--benchmark-json=latency.json")
    assert done.ret == pytest.ExitCode.INTERRUPTED
    assert benchmarks(suite) == []


def test_a_killed_run_leaves_its_rounds(suite: pytest.Pytester) -> None:
    suite.makepyfile(BREAKS.replace("raise EXCEPTION", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    done = run(suite, "--benchmark-json=latency.json")
    assert done.ret == -signal.SIGKILL
    first, *rounds = [json.loads(line) for line in (suite.path / "latency.rounds.jsonl").read_text().splitlines()]
    assert (first["schema"], first["version"]) == ("edgellm-journal", 1)
    assert [set(each) for each in rounds] == [{"test", "backend", "prompt", "round"}] * 2


def test_the_next_run_keeps_what_a_killed_one_left(suite: pytest.Pytester) -> None:
    (suite.path / "latency.rounds.jsonl").write_text("earlier")
    suite.makepyfile(TEST)
    run(suite, "--benchmark-json=latency.json").assert_outcomes(passed=1)
    assert (suite.path / "latency.rounds.before.jsonl").read_text() == "earlier"
    assert not (suite.path / "latency.rounds.jsonl").exists()


def test_a_full_disk_at_the_end_leaves_the_journal(suite: pytest.Pytester) -> None:
    """The file is one that is always full; the journal lies beside it."""
    suite.makepyfile(TEST)
    (suite.path / "latency.json").symlink_to("/dev/full")
    done = run(suite, "--benchmark-json=latency.json")
    assert done.ret != 0
    (suite.path / "said").write_text(done.stdout.str() + done.stderr.str())
    assert "cannot write latency.json: No space left on device; the rounds are in latency.rounds.jsonl" in (suite.path / "said").read_text()
    assert len((suite.path / "latency.rounds.jsonl").read_text().splitlines()) == 1 + 5


def test_a_full_disk_meanwhile_ends_the_journal_alone(suite: pytest.Pytester) -> None:
    suite.makepyfile(TEST)
    (suite.path / "latency.rounds.jsonl").symlink_to("/dev/full")
    done = run(suite, "--benchmark-json=latency.json")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*the journal of rounds ended early: latency.rounds.jsonl could not be written: No space left on device"])
    assert len(benchmarks(suite)[0]["extra_info"]["rounds"]) == 5


@pytest.mark.parametrize(
    ("option", "outcome", "line"),
    [
        ("--benchmark-disable", "skipped", "benchmarks are disabled"),
        ("--benchmark-skip", "skipped", "Skipping benchmark"),
        ("--benchmark-only", "passed", "pass"),
        ("--benchmark-cprofile=tottime", "passed", "5 rounds"),  # the round that is profiled is none of them
    ],
)
def test_options_of_pytest_benchmark(suite: pytest.Pytester, option: str, outcome: str, line: str) -> None:
    suite.makepyfile(TEST + "    assert latency_recorder.figures.values")
    done = run(suite, "-rs", option)
    done.assert_outcomes(**{outcome: 1})
    done.stdout.fnmatch_lines([f"*{line}*"])


def test_somebody_elses_benchmarks_are_left_as_they_are(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test(benchmark):\n    benchmark(len, 'x')")
    run(suite, "--benchmark-json=latency.json").assert_outcomes(passed=1)
    text = (suite.path / "latency.json").read_text()
    assert "fingerprint" not in text
    assert text.startswith('{\n    "')


def test_results_of_an_earlier_run_stay_as_they_are(suite: pytest.Pytester) -> None:
    """Where this one measured nothing, they are not to look new."""
    earlier = '{"benchmarks": []}'
    (suite.path / "latency.json").write_text(earlier)
    suite.makepyfile("def test(latency_recorder):\n    pass")
    run(suite, "--benchmark-json=latency.json", "-W", "ignore")
    assert (suite.path / "latency.json").read_text() == earlier


def test_results_that_could_not_be_written_are_not_measured(suite: pytest.Pytester) -> None:
    (suite.path / "folder").write_text("a file")
    suite.makepyfile(TEST)
    done = run(suite, "--benchmark-json=folder/latency.json")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--benchmark-json folder/latency.json can't be written: *"])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (f"{RECORD}\n    {RECORD}", "test has measured already; a test measures once"),
        ("latency_recorder.add(x=float('nan'))", "the figure x = nan is no measurement; say with `cannot` why there is none"),
    ],
)
def test_what_a_test_must_not_do(suite: pytest.Pytester, body: str, problem: str) -> None:
    suite.makepyfile(f"def test(backend, prompts, latency_recorder):\n    {body}")
    done = run(suite)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([f"*{problem}*"])


SHORT_ANSWERS = """
import pytest

@pytest.mark.budget({budget})
def test(backend, prompts, latency_recorder):
    whole = backend.generate
    backend.generate = lambda prompt, max_tokens: whole(prompt, min(max_tokens, {tokens}))
    {record}
"""


@pytest.mark.parametrize(
    ("tokens", "budget", "outcome"),
    [(3, "e2e_p95_ms", "skipped"), (3, "run_jitter_std_ms", "skipped"), (3, "itl_p50_ms", "passed"), (1, "itl_p50_ms", "skipped")],
)
def test_answers_that_are_too_short_are_not_quick_ones(suite: pytest.Pytester, tokens: int, budget: str, outcome: str) -> None:
    suite.makepyfile(SHORT_ANSWERS.format(budget=f"{budget}=1000", tokens=tokens, record=RECORD))
    done = run(suite, "-rs")
    done.assert_outcomes(**{outcome: 1})
    if budget != "itl_p50_ms":
        done.stdout.fnmatch_lines([f"*{budget}: answers had 3 to 3 tokens where 4 were asked for*"])


ORDER = f"""
import gc

def test(backend, prompts, latency_recorder, monkeypatch):
    done, whole, collect = [], backend.generate, gc.collect
    def generate(prompt, max_tokens):
        done.append(prompt)
        return whole(prompt, max_tokens)
    backend.generate = generate
    monkeypatch.setattr(gc, "collect", lambda *of: done.append("gc") or collect(*of))
    {RECORD}
    monkeypatch.undo()
    texts = prompts["short"].texts[:6]
    assert done[::3] == ["gc"] * 6
    assert done[2::3] == list(texts)
    assert not any(text.startswith(settling) for settling in done[1::3] for text in prompts["short"].texts)
"""


def test_what_comes_before_a_round(suite: pytest.Pytester) -> None:
    """Garbage collection, then a few words that begin no prompt, then the prompt: the last thing in the caches is the backend's."""
    suite.makepyfile(ORDER)
    run(suite).assert_outcomes(passed=1)


def test_rounds_are_kept_where_their_figures_are_not_waited_for(suite: pytest.Pytester) -> None:
    broken = (
        "from edgellm.measure import recorder\n\ndef figures(*of):\n    raise KeyboardInterrupt\n\nrecorder.figures_of_rounds = figures\n"
    )
    suite.makepyfile(broken + TEST)
    run(suite, "--benchmark-json=latency.json")
    assert len(benchmarks(suite)[0]["extra_info"]["rounds"]) == 5


@pytest.mark.parametrize(
    ("options", "outcome", "line"),
    [
        (["--backend", "nothing"], "errors", "*the backend 'nothing' is unknown; known: edgellm*"),
        (["--model", "no-such-model"], "errors", "*no-such-model*"),
    ],
)
def test_a_backend_that_cannot_be_loaded(suite: pytest.Pytester, options: list[str], outcome: str, line: str) -> None:
    suite.makeconftest("")
    suite.makepyfile(TEST)
    done = run(suite, *options)
    done.assert_outcomes(**{outcome: 1})
    done.stdout.fnmatch_lines([line])


def test_energy_that_nobody_measures_is_skipped_with_the_reasons(suite: pytest.Pytester) -> None:
    suite.makepyfile(f"def test(energy, latency_recorder):\n    assert energy\n{TEST}")
    done = run(suite, "-rs", "--energy", "usb-meter", "--benchmark-json=latency.json")
    done.assert_outcomes(skipped=1, passed=1)
    done.stdout.fnmatch_lines(["*energy: no USB power meter was named*"])
    energy = json.loads((suite.path / "latency.json").read_text())["energy"]
    assert (energy["provider"], "no USB power meter" in energy["why_not"]) == (None, True)


def test_a_fixture_that_skips_leaves_no_warning(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test(energy_runs):\n    assert energy_runs")
    run(suite, "-W", "error", "--energy", "usb-meter").assert_outcomes(skipped=1)


def test_energy_from_somebody_unknown(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test(energy):\n    pass")
    done = run(suite, "--energy", "guess")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*the energy provider 'guess' is unknown; known: hwmon, rapl*"])


ENERGY = """
import time

def test(energy_runs):
    energy_runs(lambda: time.sleep(0.1) or 8, rounds=20, idle_seconds=0.3)
"""


def test_a_timetable_for_a_log_that_comes_later(suite: pytest.Pytester) -> None:
    """The log is made up, at 1 kHz: 2 W idle and 7 W while the test ran, by a clock that is 100 s ahead."""
    suite.makepyfile(ENERGY)
    done = run(suite, "--energy", "later", "--rounds", "4", "--benchmark-json=latency.json")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["energy: the meter's log is still to come: edgellm energy --log METER.csv --of *latency.json"])
    (benchmark,) = benchmarks(suite)
    info = benchmark["extra_info"]
    assert "edgellm energy --log" in info["not_measured"]["joules_per_token"]
    assert not set(info["figures"]) & {"joules_per_token", "idle_watts"}
    timetable = info["timetable"]
    runs, begin_s = [stretch for stretch, _ in timetable["runs"]], timetable["idle_before"]["start_s"] - 1
    assert len(runs) == 4
    times = [begin_s + index / 1000 for index in range(int((timetable["idle_after"]["end_s"] - begin_s + 1) * 1000))]
    watts = [7 if any(each["start_s"] <= at < each["end_s"] for each in runs) else 2 for at in times]
    lines = [f"{at + 100:.3f} 5.0 {power / 5}" for at, power in zip(times, watts, strict=True)]
    (suite.path / "meter.csv").write_text("timestamp voltage_V current_A\n" + "\n".join(lines) + "\n")
    arguments = ["energy", "--log", str(suite.path / "meter.csv"), "--of", str(suite.path / "latency.json"), "--json"]
    record = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert record["alignment"]["offset_s"] == pytest.approx(100, abs=0.005)
    seconds = runs[-1]["end_s"] - runs[0]["start_s"]
    assert record["figures"]["joules_per_token"] == pytest.approx(7 * seconds / 4 / 8, rel=0.1)
    assert (record["energy"]["rounds_read"], record["energy"]["problems"]) == (4, {})


def test_a_timetable_needs_a_file(suite: pytest.Pytester) -> None:
    suite.makepyfile(f"{ENERGY}\ndef test_meter(energy):\n    pass")
    done = run(suite, "-rs", "--energy", "later")
    done.assert_outcomes(errors=1, skipped=1)
    done.stdout.fnmatch_lines(["*--energy later keeps its timetable in the results file: name one with --benchmark-json=FILE"])
    done.stdout.fnmatch_lines(["*energy: nobody reads it during the run; the fixture energy_runs keeps a timetable*"])


def test_energy_read_while_it_runs(suite: pytest.Pytester) -> None:
    """The meter is one that the suite makes up."""
    suite.makeconftest(f"{CONFTEST}{METER}")
    suite.makepyfile(ENERGY)
    run(suite, "--rounds", "3", "--benchmark-json=latency.json").assert_outcomes(passed=1)
    (benchmark,) = benchmarks(suite)
    info = benchmark["extra_info"]
    assert info["energy"]["rounds_read"] == 3
    assert info["figures"]["active_watts"] == pytest.approx(5, rel=0.02)
    assert info["figures"]["joules_per_token"] >= 5 * 0.1 / 8
    assert "timetable" not in info


def test_it_costs_a_suite_that_measures_nothing_no_import(suite: pytest.Pytester) -> None:
    costly = {"numpy", "scipy", "edgellm.ops.native", "edgellm.measure.statistics"}
    suite.makepyfile(f"import sys\n\ndef test():\n    assert not {costly} & set(sys.modules)")
    suite.makeconftest("")
    run(suite).assert_outcomes(passed=1)


def test_the_plugin_is_an_entry_point() -> None:
    program = "from importlib.metadata import entry_points; print(*[each.value for each in entry_points(group='pytest11')])"
    said = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=Path("/"))
    assert "edgellm.measure.pytest_plugin" in said.split()
