"""The gate itself: a seeded slow engine breaks its budget and a quick one keeps it, and a run on workers is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = "pytester"
pytestmark = pytest.mark.perf

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()
TESTS = """
import time, pytest

@pytest.fixture(scope="session")
def limits():
    return {"itl_p95_ms": 200.0}

@pytest.mark.parametrize("stall_s", [0, 0.25], ids=["quick", "slow"])
def test_decode(latency, stall_s):
    latency.measure("itl", lambda: time.sleep(stall_s), rounds=5, warmup_rounds=1)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """The recorder on an engine that does nothing but stall."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    return pytester


def test_broken_budget_fails(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("-p", "no:xdist")
    run.assert_outcomes(passed=1, failed=1)
    run.stdout.fnmatch_lines(["*itl_p95_ms * <= 200: pass", "*itl_p95_ms * > 200: FAIL"])


def test_workers_are_refused(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("-n", "2")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*tests/perf times the machine and cannot share it*"])
