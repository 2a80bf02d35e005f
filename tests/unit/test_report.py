"""The fixture `report`: what a test measured is shown and written, wherever the test ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.measure.results import read_results

pytest_plugins = "pytester"

CONFTEST = (Path(__file__).parents[1] / "conftest.py").read_text()
TESTS = """
def test_sound(report):
    report("quality", "ppl 2.5", ppl=2.5, window_nlls=[0.9, 1.0])

def test_poor(report):
    report("quality", "ppl 9.0", ppl=9.0)
    report("parity", "top-1 0.5", top1=0.5)
    raise AssertionError
"""


@pytest.mark.parametrize("workers", [("-p", "no:xdist"), ("-n", "1")], ids=["here", "on a worker"])
def test_reported_numbers_are_shown_and_written_whatever_the_outcome(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    run = pytester.runpytest_subprocess("-p", "no:benchmark", *workers)
    run.assert_outcomes(passed=1, failed=1)
    run.stdout.fnmatch_lines(["*results/parity.json*", "top-1 0.5", "*results/quality.json*", "ppl 2.5", "ppl 9.0"])
    quality, parity = (read_results(pytester.path / "results" / f"{kind}.json") for kind in ("quality", "parity"))
    assert quality["records"] == [{"ppl": 2.5, "window_nlls": [0.9, 1.0]}, {"ppl": 9.0}]
    assert (parity["kind"], parity["records"]) == ("parity", [{"top1": 0.5}])
