"""The gates themselves: a seeded slow engine breaks its budget and a quick one keeps it, the JSON holds what the table shows, a run on
workers is refused, and a missed goal fails where goals decide.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.perf.goals import TITLE, Board, Goal
from tests.perf.tables import Tables

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
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The recorder on an engine that does nothing but stall."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
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


def test_rounds_that_measure_nothing_are_refused(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("-p", "no:xdist", "--rounds", "0")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*--rounds 0: at least one round is needed"])


SPEEDUP = Goal("speedup", ours="Q4_1", threads=(2,), test="tg64", at_least=3.0)
JITTER = Goal("itl_p99_over_p50", ours="Q4_1", threads=(2,), at_most=1.1)


def test_every_goal_gets_a_verdict_and_a_missed_one_fails_where_goals_decide() -> None:
    figures = ((SPEEDUP, 2.9, "58 ms; 20 ms"), (JITTER, 1.1, "p50 2 ms"))
    records: list[dict[str, Any]] = []
    tables = Tables()
    Board(tables, records.append, strict=False).judge(2, *figures)
    rows = [[cell.strip() for cell in line.split("|")] for line in tables.shown()[TITLE].splitlines()[2:]]
    assert [row[-4:-1] for row in rows] == [["2.9", ">= 3", "MISSED"], ["1.1", "<= 1.1", "pass"]]
    assert [(record["goal"]["figure"], record["kept"]) for record in records] == [("speedup", False), ("itl_p99_over_p50", True)]
    with pytest.raises(pytest.fail.Exception, match=r"speedup tg64 of Q4_1 at 2 threads: 2\.9, not >= 3$"):
        Board(Tables(), records.append, strict=True).judge(2, *figures)
    assert len(records) == 4


@pytest.mark.parametrize("limits", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_goal_has_one_limit(limits: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="one limit"):
        Goal("speedup", ours="Q4_1", threads=(1,), **limits)
