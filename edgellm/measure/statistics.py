"""Statistics of timing samples. Samples are non-negative numbers of one unit; every figure comes back in that unit.

Percentiles follow the linear rule (Hyndman and Fan 1996, type 7; NumPy's default): with the n samples sorted from x[0],
the q-th percentile lies at position (n - 1) * q / 100, interpolated linearly between its two neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError

F64 = npt.NDArray[np.float64]
Samples = Sequence[float] | npt.NDArray[np.number]


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


def median_absolute_deviation(samples: Samples) -> float:
    """median(|x - median(x)|), not scaled to a normal distribution's standard deviation."""
    values = checked(samples)
    return float(np.median(np.abs(values - np.median(values))))


def standard_deviation(samples: Samples) -> float | None:
    """The sample standard deviation (divisor n - 1); None for one sample."""
    values = checked(samples)
    return float(values.std(ddof=1)) if values.size > 1 else None


def mean_ci95(samples: Samples) -> tuple[float, float] | None:
    """Student's two-sided 95% confidence interval of the mean (low, high); None for one sample."""
    values = checked(samples)
    if values.size < 2:
        return None
    half = student_t_975(values.size - 1) * float(values.std(ddof=1)) / math.sqrt(values.size)
    return float(values.mean()) - half, float(values.mean()) + half


def student_t_975(degrees: int) -> float:
    """The 97.5% quantile of Student's t: exact for 1 and 2 degrees of freedom, else within 0.2%.

    The series is Abramowitz and Stegun 26.7.5.
    """
    if degrees < 1:
        raise InvalidRequestError(f"{degrees} degrees of freedom; Student's t needs at least 1")
    if degrees == 1:
        return math.tan(math.pi * 0.475)
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))


def summarize(samples: Samples) -> Summary:
    """All of `Summary` at once."""
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
