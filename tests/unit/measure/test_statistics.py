from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from edgellm.errors import InvalidRequestError
from edgellm.measure import statistics

EVERY_FUNCTION: list[Callable[[Any], object]] = [
    statistics.summarize,
    statistics.jitter,
    statistics.mean_ci95,
    statistics.standard_deviation,
    statistics.median_absolute_deviation,
    lambda samples: statistics.percentile(samples, 50),
]


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0, 10), (25, 20), (50, 30), (90, 46), (95, 48), (99, 49.6), (100, 50)],
)
def test_percentile_is_linear(q: float, expected: float) -> None:
    assert statistics.percentile([50, 10, 40, 20, 30], q) == pytest.approx(expected)


@pytest.mark.parametrize("q", [-1, 100.5, math.nan])
def test_percentile_out_of_range(q: float) -> None:
    with pytest.raises(InvalidRequestError, match=r"outside 0\.\.100"):
        statistics.percentile([1, 2], q)


def test_summary_of_known_samples() -> None:
    summary = statistics.summarize([2, 4, 4, 4, 5, 5, 7, 9])
    assert summary.n == 8
    assert summary.mean == 5
    assert summary.std == pytest.approx(math.sqrt(32 / 7))
    assert (summary.minimum, summary.p50, summary.maximum) == (2, 4.5, 9)
    assert summary.mad == 0.5
    assert summary.p95 == pytest.approx(8.3)


def test_single_sample_has_no_spread() -> None:
    summary = statistics.summarize([3])
    assert (summary.std, summary.mean_ci95) == (None, None)
    assert (summary.p50, summary.p99, summary.mad) == (3, 3, 0)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 29, 99, 10_000])
def test_student_t_against_scipy(degrees: int) -> None:
    exact = degrees < 3
    assert statistics.student_t_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-12 if exact else 2e-3)


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_confidence_interval_against_scipy(n: int) -> None:
    samples = np.random.default_rng(n).gamma(3, size=n)
    expected = stats.t.interval(0.95, n - 1, samples.mean(), stats.sem(samples))
    assert statistics.mean_ci95(samples) == pytest.approx(expected, rel=1e-2)


def test_jitter_of_known_samples() -> None:
    jitter = statistics.jitter([10] * 99 + [30], deadline=20)
    assert jitter.deadline_misses == 1
    assert jitter.max_over_p50 == 3
    assert jitter.p99_over_p50 == pytest.approx(1.02)
    assert jitter.mad == 0
    assert jitter.std == pytest.approx(2)


def test_jitter_without_deadline_or_median() -> None:
    jitter = statistics.jitter([0, 0, 0, 5])
    assert (jitter.deadline_misses, jitter.p99_over_p50, jitter.max_over_p50) == (None, None, None)


def test_a_sample_on_the_deadline_is_no_miss() -> None:
    assert statistics.jitter([1, 2, 3], deadline=2).deadline_misses == 1


@pytest.mark.parametrize("deadline", [0, -1, math.nan])
def test_deadline_must_be_positive(deadline: float) -> None:
    with pytest.raises(InvalidRequestError, match="not positive"):
        statistics.jitter([1, 2], deadline=deadline)


@pytest.mark.parametrize("function", EVERY_FUNCTION)
@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ([], "no samples"),
        ([1, math.nan], "sample 1 is nan"),
        ([1, 2, math.inf], "sample 2 is inf"),
        ([-1, 2], "sample 0 is -1"),
        ([[1, 2], [3, 4]], "one-dimensional"),
    ],
)
def test_bad_samples(function: Callable[[Any], object], samples: Any, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        function(samples)
