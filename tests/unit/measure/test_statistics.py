from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgellm.errors import EdgeLLMError, InvalidRequestError
from edgellm.measure import statistics

stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: confidence intervals need it")

EVERY_FUNCTION: list[Callable[[Any], object]] = [
    statistics.summarize,
    statistics.jitter,
    statistics.mean_ci95,
    statistics.standard_deviation,
    statistics.median_absolute_deviation,
    lambda samples: statistics.percentile(samples, 50),
    lambda samples: statistics.percentile_interval(samples, 50),
    lambda samples: statistics.bootstrap_interval(statistics.mad, [samples]),
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


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_confidence_interval_against_scipy(n: int) -> None:
    samples = np.random.default_rng(n).gamma(3, size=n)
    expected = stats.t.interval(0.95, n - 1, samples.mean(), stats.sem(samples))
    assert statistics.mean_ci95(samples) == pytest.approx(expected, rel=1e-12)


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


@pytest.mark.parametrize(("q", "rounds"), [(99, 299), (95, 59), (50, 6), (5, 59), (1, 299), (99.9, 2995)])
def test_rounds_needed_are_the_fewest_that_bound_both_sides(q: float, rounds: int) -> None:
    assert statistics.rounds_needed(q) == rounds
    samples = np.arange(rounds)
    assert None not in statistics.percentile_interval(samples, q)
    assert None in statistics.percentile_interval(samples[1:], q)


def test_upper_bound_of_p99_needs_as_many_rounds_as_both_its_bounds() -> None:
    """One-sided at 95%: 299. With 2.5% on either side, which is more than the interval asks for: 368."""
    assert 0.99**299 <= 0.05 < 0.99**298
    assert statistics.rounds_needed(99, 0.95) == 299
    assert 0.99**368 <= 0.025 < 0.99**367
    assert statistics.rounds_needed(99, 0.975) == 368


@pytest.mark.parametrize(
    ("q", "rounds", "expected"),
    [(50, 1, (None, None)), (50, 5, (0, None)), (99, 298, (291, None)), (1, 298, (None, 6)), (99, 2, (1, None))],
)
def test_what_few_samples_cannot_bound_is_open(q: float, rounds: int, expected: tuple[float | None, float | None]) -> None:
    assert statistics.percentile_interval(np.arange(rounds), q) == expected


@pytest.mark.parametrize(("q", "rounds"), [(50, 20), (95, 100), (99, 400), (99, 100), (10, 60)])
def test_percentile_interval_covers_as_often_as_it_says(q: float, rounds: int) -> None:
    draws = np.random.default_rng(rounds).exponential(size=(2000, rounds))
    truth = -math.log(1 - q / 100)
    intervals = [statistics.percentile_interval(samples, q) for samples in draws]
    covered = np.mean([(low is None or low <= truth) and (high is None or truth <= high) for low, high in intervals])
    assert 0.94 < covered < 0.99


def test_percentile_interval_of_ties_is_one_point() -> None:
    assert statistics.percentile_interval([3] * 400, 99) == (3, 3)


@pytest.mark.parametrize("q", [-1, 0, 100, math.nan])
@pytest.mark.parametrize("function", [lambda q: statistics.percentile_interval([1, 2], q), statistics.rounds_needed])
def test_percentile_without_an_interval(function: Callable[[float], object], q: float) -> None:
    with pytest.raises(InvalidRequestError, match="has no interval"):
        function(q)


def rounds_that_differ(rng: np.random.Generator, rounds: int) -> list[statistics.F64]:
    """Calls [16] around a level that each round has of its own, so that the calls of a round depend on each other."""
    return list(100 + rng.normal(0, 1, (rounds, 1)) + rng.normal(0, 1, (rounds, 16)))


def test_bootstrap_covers_though_calls_of_a_round_depend_on_each_other() -> None:
    rng = np.random.default_rng(1)

    def covered(blocks: Callable[[list[statistics.F64]], list[statistics.F64]]) -> float:
        intervals = [
            statistics.bootstrap_interval(lambda samples: samples.mean(axis=-1), blocks(rounds_that_differ(rng, 40)), resamples=400)
            for _ in range(120)
        ]
        return float(np.mean([low is not None and high is not None and low <= 100 <= high for low, high in intervals]))

    assert 0.88 < covered(lambda rounds: rounds) < 0.99
    assert covered(lambda rounds: list(np.concatenate(rounds).reshape(-1, 1))) < 0.6  # what calls drawn one by one would claim


def test_bootstrap_of_a_ratio_draws_both_sides_of_a_round_together() -> None:
    rng = np.random.default_rng(2)
    drift = rng.uniform(1, 3, size=30)  # of the machine: far more than the 10% between the two
    a, b = ([level * scale * rng.normal(100, 1, 16) for level in drift] for scale in (1, 1.1))

    def ratio(a: statistics.F64, b: statistics.F64) -> statistics.F64:
        return np.asarray(b.mean(axis=-1) / a.mean(axis=-1))

    low, high = statistics.bootstrap_interval(ratio, a, b)
    assert low is not None
    assert high is not None
    assert 1.09 < low < 1.1 < high < 1.11


@pytest.mark.parametrize("figure", [statistics.std, statistics.mad, statistics.p99_over_p50, statistics.max_over_p50])
def test_bootstrap_is_the_same_however_it_is_computed(figure: statistics.Statistic, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = list(np.random.default_rng(3).gamma(3, size=(12, 8)))
    at_once = statistics.bootstrap_interval(figure, rounds, resamples=50)
    monkeypatch.setattr(statistics, "CHUNK", 1)
    assert statistics.bootstrap_interval(figure, rounds, resamples=50) == pytest.approx(at_once)
    low, high = statistics.bootstrap_interval(figure, rounds, resamples=50, seed=1)
    assert (low, high) != at_once
    assert low is not None
    assert high is not None
    assert low < float(figure(np.concatenate(rounds))) < high


def test_bootstrap_of_rounds_of_different_lengths() -> None:
    rounds = [np.full(size, 5.0) for size in (3, 1, 7)]
    assert statistics.bootstrap_interval(statistics.max_over_p50, rounds) == (1, 1)
    assert statistics.bootstrap_interval(statistics.std, rounds) == (0, 0)


@pytest.mark.parametrize("rounds", [[[1, 2]], [[0, 0], [0, 0]], [[0], [0]]], ids=["one round", "no median", "no spread"])
def test_bootstrap_without_a_figure_is_open(rounds: list[list[float]]) -> None:
    assert statistics.bootstrap_interval(statistics.p99_over_p50, rounds) == (None, None)


@pytest.mark.parametrize(
    ("groups", "options", "problem"),
    [
        ([], {}, "same number of rounds"),
        ([[]], {}, "at least one; they have"),
        ([[[1]], [[1], [2]]], {}, r"they have \[1, 2\]"),
        ([[[1], [2]]], {"resamples": 0}, "resamples 0"),
        ([[[1], [2]]], {"confidence": 1}, "confidence 1"),
    ],
)
def test_bad_bootstrap(groups: list[list[list[float]]], options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        statistics.bootstrap_interval(statistics.mad, *groups, **options)


def test_without_scipy_an_interval_says_how_to_get_it_and_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(EdgeLLMError, match=r"pip install 'edgellm\[measure\]'"):
        statistics.percentile_interval([1, 2], 50)
    assert statistics.jitter([1, 2]).std == pytest.approx(math.sqrt(0.5))
    assert None not in statistics.bootstrap_interval(statistics.mad, [[1, 2], [3, 4]])
