"""Statistics of timing samples, and how sure they are. Samples are non-negative numbers of one unit; every figure comes back in that unit.

Percentiles follow the linear rule (Hyndman and Fan 1996, type 7; NumPy's default): with the n samples sorted from x[0],
the q-th percentile lies at position (n - 1) * q / 100, interpolated linearly between its two neighbours.

Intervals are two-sided and hold for any distribution of the samples:

- `percentile_interval`: between two order statistics, for samples that do not depend on each other (one per round);
- `bootstrap_interval`: any figure, by drawing whole rounds anew, because the calls of one round do depend on each other;
- `mean_ci95`: Student's, for samples whose mean is about normal.

The first and the last need scipy, which is imported when they are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgellm.errors import EdgeLLMError, InvalidRequestError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Samples = Sequence[float] | npt.NDArray[np.number]
Statistic = Callable[..., F64]
"""From arrays [..., calls] to one figure [...] of each last axis; more than one array where a figure compares."""

RESAMPLES = 2000
SEED = 20
CHUNK = 4_000_000
"""Samples that are drawn anew at once: 32 MB of them."""


class Interval(NamedTuple):
    """Where a figure lies with the confidence that was asked for; None on a side that the samples cannot bound."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class Summary:
    """What the samples say of their distribution. `std` and `mean_ci95` need two samples and are None with one."""

    n: int
    mean: float
    mean_ci95: tuple[float, float] | None
    std: float | None
    minimum: float
    p50: float
    p95: float
    p99: float
    maximum: float
    mad: float


@dataclass(frozen=True)
class Jitter:
    """How much the samples scatter. Ratios are None where the median is 0; `deadline_misses` is None without a deadline."""

    std: float | None
    mad: float
    p99_over_p50: float | None
    max_over_p50: float | None
    deadline_misses: int | None


def checked(samples: Samples) -> F64:
    """The samples as float64 [n]; InvalidRequestError unless there is at least one and all are finite and not negative."""
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1:
        raise InvalidRequestError(f"samples must be one-dimensional; they have the shape {values.shape}")
    if values.size == 0:
        raise InvalidRequestError("no samples: a statistic needs at least one")
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InvalidRequestError(f"sample {at} is {values[at]}; samples must be finite and not negative")
    return values


def percentile(samples: Samples, q: float) -> float:
    """The q-th percentile, q in 0..100, by the linear rule above."""
    if not 0 <= q <= 100:
        raise InvalidRequestError(f"percentile {q} is outside 0..100")
    return float(np.percentile(checked(samples), q, method="linear"))


def percentile_interval(samples: Samples, q: float, confidence: float = 0.95) -> Interval:
    """The two order statistics with the fewest samples between them that cover the q-th percentile, q in 0..100 without its ends.

    The number of samples below the percentile is binomial (n, q/100), whatever their distribution, as long as they do not depend on each
    other; ties make the interval only surer (David and Nagaraja, Order Statistics, 3rd edition, section 7.1). Where no two cover it, the
    tail that is harder to reach is open (None), and the other bound alone has the confidence, if it can. `rounds_needed` says how many
    samples bound both.
    """
    values = np.sort(checked(samples))
    p = _checked_proportion(q)
    alpha = _checked_alpha(confidence)
    below = _scipy_stats().binom.cdf(np.arange(values.size), values.size, p)  # [k]: at most k samples lie below the percentile
    uppers = np.flatnonzero(below >= 1 - alpha)
    if uppers.size:
        lowers = np.searchsorted(below, below[uppers] - (1 - alpha), side="right") - 1
        if (possible := lowers >= 0).any():
            uppers, lowers = uppers[possible], lowers[possible]
            best = int(np.argmin(uppers - lowers))
            return Interval(float(values[lowers[best]]), float(values[uppers[best]]))
    if p < 0.5:
        return Interval(None, float(values[uppers[0]]) if uppers.size else None)
    lower = int(np.searchsorted(below, alpha, side="right")) - 1
    return Interval(float(values[lower]) if lower >= 0 else None, None)


def rounds_needed(q: float, confidence: float = 0.95) -> int:
    """How many samples bound the q-th percentile on both sides: the smallest n at which minimum and maximum cover it.

    They miss it when all samples lie on one side: (q/100)^n + (1 - q/100)^n. For p99 at 95% that is 299, as many as its upper bound alone
    needs, because the other term is nothing; tails of 2.5% each would need 368.
    """
    p, alpha = _checked_proportion(q), _checked_alpha(confidence)
    needed = max(1, math.ceil(math.log(alpha) / math.log(max(p, 1 - p))))
    while p**needed + (1 - p) ** needed > alpha:
        needed += 1
    return needed


def bootstrap_interval(
    statistic: Statistic,
    *groups: Sequence[Samples],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Where a figure lies, by drawing rounds with replacement; (None, None) for one round, and where a draw has no such figure.

    groups:    each a sequence of rounds, a round being its samples. Round i of every group is drawn together, so that what the
               machine did to both cancels in `statistic(a, b)`
    resamples: how often all rounds are drawn; the interval lies between the percentiles of the figures that they give

    The percentile bootstrap (Efron 1979) in blocks that are rounds (Künsch 1989): it stays inside what the figure can be, is the same for
    a ratio and for its logarithm, and exists for medians and constants, where BCa's jackknife fails. The confidence is nominal: with few
    rounds, and of figures that rare stalls decide, the interval is too narrow (a standard deviation of which 2% of the calls are stalls
    is covered 7 times in 10 by 10 rounds, 9 in 10 by 100).
    """
    alpha = _checked_alpha(confidence)
    blocks = [[checked(samples) for samples in rounds] for rounds in groups]
    count = len(blocks[0]) if blocks else 0
    if count == 0 or any(len(rounds) != count for rounds in blocks):
        raise InvalidRequestError(
            f"every group needs the same number of rounds, at least one; they have {[len(rounds) for rounds in blocks]}"
        )
    if resamples < 1:
        raise InvalidRequestError(f"resamples {resamples} is not possible; it must be at least 1")
    if count == 1:
        return Interval(None, None)
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    with np.errstate(divide="ignore", invalid="ignore"):  # such draws are seen below
        figures = np.concatenate([np.atleast_1d(statistic(*drawn)) for drawn in _drawn(blocks, draws)])
    if not np.isfinite(figures).all():
        return Interval(None, None)
    low, high = np.quantile(figures, [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high))


def _drawn(blocks: list[list[F64]], draws: I64) -> Iterator[list[F64]]:
    """The samples of each group in every draw [resamples, rounds], pooled: [some of the resamples, samples], or [samples] of one resample
    where rounds differ in length.
    """
    if all(len({block.size for block in rounds}) == 1 for rounds in blocks):
        stacked = [np.stack(rounds) for rounds in blocks]
        at_once = max(1, CHUNK // max(array.size for array in stacked))
        for start in range(0, len(draws), at_once):
            chunk = draws[start : start + at_once]
            yield [array[chunk].reshape(len(chunk), -1) for array in stacked]
    else:
        for draw in draws:
            yield [np.concatenate([rounds[i] for i in draw]) for rounds in blocks]


def std(samples: F64) -> F64:
    """The sample standard deviation (divisor n - 1) of the last axis; NaN of one sample."""
    if samples.shape[-1] < 2:
        return np.full(samples.shape[:-1], np.nan)
    return np.asarray(samples.std(axis=-1, ddof=1))


def mad(samples: F64) -> F64:
    """median(|x - median(x)|) of the last axis, not scaled to a normal distribution's standard deviation."""
    return np.asarray(np.median(np.abs(samples - np.median(samples, axis=-1, keepdims=True)), axis=-1))


def p99_over_p50(samples: F64) -> F64:
    """How far the slow calls of the last axis are from a typical one."""
    p50, p99 = np.percentile(samples, [50, 99], axis=-1)
    return np.asarray(p99 / p50)


def max_over_p50(samples: F64) -> F64:
    """How far the slowest call of the last axis is from a typical one."""
    return np.asarray(samples.max(axis=-1) / np.median(samples, axis=-1))


def median_absolute_deviation(samples: Samples) -> float:
    """`mad` of checked samples."""
    return float(mad(checked(samples)))


def standard_deviation(samples: Samples) -> float | None:
    """`std` of checked samples; None for one sample."""
    values = checked(samples)
    return float(std(values)) if values.size > 1 else None


def mean_ci95(samples: Samples) -> tuple[float, float] | None:
    """Student's two-sided 95% confidence interval of the mean (low, high); None for one sample."""
    values = checked(samples)
    if values.size < 2:
        return None
    half = float(_scipy_stats().t.ppf(0.975, values.size - 1)) * float(std(values)) / math.sqrt(values.size)
    return float(values.mean()) - half, float(values.mean()) + half


def summarize(samples: Samples) -> Summary:
    """All of `Summary` at once; with two samples and more it needs scipy."""
    values = checked(samples)
    return Summary(
        n=values.size,
        mean=float(values.mean()),
        mean_ci95=mean_ci95(values),
        std=standard_deviation(values),
        minimum=float(values.min()),
        p50=percentile(values, 50),
        p95=percentile(values, 95),
        p99=percentile(values, 99),
        maximum=float(values.max()),
        mad=median_absolute_deviation(values),
    )


def jitter(samples: Samples, deadline: float | None = None) -> Jitter:
    """All of `Jitter` at once; `deadline` is in the samples' unit, and a sample above it is a miss."""
    values = checked(samples)
    if deadline is not None and not deadline > 0:
        raise InvalidRequestError(f"deadline {deadline} is not positive")
    p50 = percentile(values, 50)
    return Jitter(
        std=standard_deviation(values),
        mad=median_absolute_deviation(values),
        p99_over_p50=percentile(values, 99) / p50 if p50 else None,
        max_over_p50=float(values.max()) / p50 if p50 else None,
        deadline_misses=None if deadline is None else int((values > deadline).sum()),
    )


def _checked_proportion(q: float) -> float:
    if not 0 < q < 100:
        raise InvalidRequestError(f"percentile {q} has no interval; possible: above 0 and below 100")
    return q / 100


def _checked_alpha(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise InvalidRequestError(f"confidence {confidence} is not possible; it must lie between 0 and 1")
    return 1 - confidence


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise EdgeLLMError(
            f"confidence intervals are not available: {error}. Install scipy with: pip install 'edgellm[measure]'"
        ) from error
    return stats
