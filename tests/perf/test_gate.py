"""The gate itself: a seeded slow engine breaks its budget and a quick one keeps it, the JSON holds what the table shows, and a run on
workers is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest_plugins = "pytester"
pytestmark = pytest.mark.perf

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()
TESTS = """
import time, pytest

@pytest.mark.parametrize("stall_s", [0, 0.25], ids=["quick", "slow"])
def test_decode(latency, stall_s):
    latency.measure("itl", lambda: time.sleep(stall_s), rounds=5, warmup_rounds=1)

def test_memory(latency):
    latency.benchmark.pedantic(time.sleep, args=(0,))
    latency.judge("peak_rss", "peak_rss 256 MiB", {"peak_rss_mib": 256.0}, peak_rss_bytes=256 * 2**20)
"""

BUDGETS = """
[default]
itl_p95_ms = 200
peak_rss_mib = 512
[claims]
itl_p50_ms = 1e-9
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """The recorder on an engine that does nothing but stall."""
    pytester.makeconftest(CONFTEST)
    (pytester.path / "budgets.toml").write_text(BUDGETS)
    pytester.makepyfile(TESTS)
    return pytester


def test_broken_budget_fails_and_broken_claim_is_shown(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("-p", "no:xdist")
    run.assert_outcomes(passed=2, failed=1)
    run.stdout.fnmatch_lines(["*itl_p95_ms * <= 200: pass", "*claim: itl_p50_ms * > 1e-09: FAIL", "*itl_p95_ms * > 200: FAIL"])


def test_claims_are_a_gate_when_asked_for(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("-p", "no:xdist", "-k", "quick or memory", "--budgets", "claims")
    run.assert_outcomes(passed=1, failed=1)
    run.stdout.fnmatch_lines(["*latency in ms, budgets of claims*", "    itl_p50_ms * > 1e-09: FAIL"])


def test_an_unknown_profile_is_refused(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("-p", "no:xdist", "--budgets", "claim")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*--budgets claim: budgets.toml has no such profile"])


def test_the_json_holds_what_the_table_shows(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess("-p", "no:xdist", "-k", "quick or memory", "--benchmark-json=latency.json")
    document = json.loads((suite.path / "latency.json").read_text())
    quick, memory = (record["extra_info"] for record in document["benchmarks"])
    assert {record["provenance"] for record in (quick, memory)} == {"measured"}
    assert len(quick["samples_ns"]) == 5
    assert quick["tokens_per_second"] == pytest.approx(1e3 / quick["summary_ms"]["p50"])
    assert memory["peak_rss_bytes"] == 256 * 2**20
    assert [claim["kept"] for claim in quick["claims"]] == [False]
    assert memory["budgets"] == [{"name": "peak_rss_mib", "measured": 256.0, "limit": 512.0, "kept": True}]


def test_workers_are_refused(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("-n", "2")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*tests/perf times the machine and cannot share it*"])
