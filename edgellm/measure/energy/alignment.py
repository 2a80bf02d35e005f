"""When a power meter's log and a run were, relative to each other: two clocks, one offset.

The offset is what is added to the run's times to get the log's. Either it is given, with how far it may be wrong, or it is found: the run
is known to have been busy in some stretches and idle in others, and the log is searched for the place where the power does the same.
Log and pattern are brought to one grid of the log's median period; at every lag that has the whole pattern inside of the log, Pearson's r
between the two is what cross-correlation, normalised, gives. The lag with the highest r wins.

Its uncertainty is one period, the grid's, and how far single edges of the load lie off: each is searched for by itself around its place,
and the root of the mean square of what is found is added. A delay that all edges share (the meter's own filter) is not seen by that.
A run that fits about as well elsewhere in the log is refused.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgellm.measure.energy.integral import read_window
from edgellm.measure.energy.provider import EnergyReading, PowerSample
from edgellm.measure.energy.usb_meter import MeterLog, MeterLogError

F64 = npt.NDArray[np.float64]

LEAST_CORRELATION = 0.5
"""Below it, nothing in the log looks like the run."""
MOST_UNCERTAIN = 0.1
"""Of a stretch's length."""
LEAST_PAUSE = 5
"""Samples between two runs; with fewer, they are one to the log."""
SAME_RESIDUAL = 1.2
"""How much more of the power's variance another place may leave unexplained and still be as good."""
LEAST_RESIDUAL = 1e-6
"""Added to it, so that a log without noise is no special case."""
MOST_POINTS = 10_000_000
"""Of the grid: a day at 100 Hz, and some GiB of memory to search it."""


@dataclass(frozen=True)
class Stretch:
    """From a time to a later one, in seconds of the run's clock."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Alignment:
    """offset_s: the log's time minus the run's; uncertainty_s: how far it may be wrong; correlation: r, None if the offset was given."""

    offset_s: float
    uncertainty_s: float
    correlation: float | None = None

    def __str__(self) -> str:
        found = "given" if self.correlation is None else f"found by load edges, r = {self.correlation:.2f}"
        return f"aligned to ±{self.uncertainty_s:.3g} s, {found}"


def align(log: MeterLog, observed: Stretch, busy: Sequence[Stretch]) -> Alignment:
    """Find when the run was.

    observed: all of the time of which is known when it was busy; idle time before and after the run belongs to it
    busy:     in order of time, inside of `observed`

    MeterLogError: the log is shorter than the run, shows nothing like it, or shows it in more than one place.
    """
    period_s = log.period_s
    power = _on_grid(log.samples, period_s)
    if _length(observed) / period_s >= len(power):
        raise MeterLogError(
            f"{log.path}: {log.samples[-1].at_s - log.samples[0].at_s:.1f} s of log for a run of {_length(observed):.6g} s; "
            "let the meter record before the run, until after it"
        )
    pattern = _pattern(observed, busy, period_s)
    if pattern.min() == pattern.max():
        raise MeterLogError(
            "a run that was always busy, or never, has no edge to be aligned by; measure idle time before it, or give the offset"
        )
    r = _correlations(power, pattern)
    best = int(np.argmax(r))
    if r[best] < LEAST_CORRELATION:
        raise MeterLogError(
            f"{log.path}: nothing in it looks like the run (r = {r[best]:.2f}); if it is the right log, give the offset (--offset SECONDS)"
        )
    residual = 1 - np.maximum(r, 0) ** 2 + LEAST_RESIDUAL
    away_s = np.abs(np.arange(len(r)) - best) * period_s
    also = (residual < SAME_RESIDUAL * residual[best]) & (away_s > period_s * _shortest(pattern))
    if also.any():
        raise MeterLogError(f"{log.path}: the run fits about as well {away_s[also].max():.1f} s away; give the offset (--offset SECONDS)")
    offset_s = log.samples[0].at_s + best * period_s - observed.start_s
    return Alignment(offset_s, period_s * (1 + _edges_off(power[best:], pattern)), float(r[best]))


def read_stretch(log: MeterLog, alignment: Alignment, stretch: Stretch) -> EnergyReading:
    """The energy of a stretch of the run; None where the alignment is too uncertain for one as short as this."""
    times = stretch.start_s + alignment.offset_s, stretch.end_s + alignment.offset_s
    first = bisect_left(log.samples, times[0], key=_at)
    last = bisect_right(log.samples, times[1], key=_at)
    around = log.samples[max(0, first - 1) : last + 1]  # a log has many more
    reading = read_window(around, *times, source=f"{log.source}; {alignment}", kind=log.kind, rate_hz=1 / log.period_s)
    if alignment.uncertainty_s <= MOST_UNCERTAIN * _length(stretch):
        return reading
    problem = f"{_length(stretch):.3g} s are too short for an alignment to ±{alignment.uncertainty_s:.3g} s; let each run make more tokens"
    return replace(reading, joules=None, watts=None, problem=problem)


def _at(sample: PowerSample) -> float:
    return sample.at_s


def _length(stretch: Stretch) -> float:
    return stretch.end_s - stretch.start_s


def _on_grid(samples: Sequence[PowerSample], period_s: float) -> F64:
    times = np.array([sample.at_s for sample in samples])
    points = int((times[-1] - times[0]) / period_s) + 1
    if points > MOST_POINTS:
        raise MeterLogError(f"a log of {points} periods of {period_s:.3g} s is too long to be searched; cut out the part with the run")
    grid: F64 = np.interp(times[0] + period_s * np.arange(points), times, [sample.watts for sample in samples])
    return grid


def _pattern(observed: Stretch, busy: Sequence[Stretch], period_s: float) -> F64:
    """1 where the run was busy; pauses of a few samples between runs are no edges that a log would show."""
    times = observed.start_s + period_s * np.arange(int(_length(observed) / period_s) + 1)
    pattern = np.zeros(len(times))
    end_s = -np.inf
    for stretch in busy:
        start_s = end_s if stretch.start_s - end_s < LEAST_PAUSE * period_s else stretch.start_s
        pattern[(start_s <= times) & (times < stretch.end_s)] = 1
        end_s = stretch.end_s
    return pattern


def _edges(pattern: F64) -> list[int]:
    return [int(index) + 1 for index in np.flatnonzero(np.diff(pattern))]


def _shortest(pattern: F64) -> int:
    """Samples between edges, and to the ends."""
    return int(np.diff([0, *_edges(pattern), len(pattern)]).min())


def _edges_off(power: F64, pattern: F64) -> float:
    """How many samples the edges lie off, each searched for up to a third of the way to the next: the root of the mean square."""
    reach = max(2, _shortest(pattern) // 3)
    off = []
    for edge in _edges(pattern):
        around, step = power[max(0, edge - 2 * reach) : edge + 2 * reach], pattern[max(0, edge - reach) : edge + reach]
        if len(around) == 4 * reach and len(step) == 2 * reach:
            off.append(int(np.argmax(_correlations(around, step))) - reach)
    return float(np.sqrt(np.mean(np.square(off)))) if off else float(reach)


def _correlations(power: F64, pattern: F64) -> F64:
    """Pearson's r of the pattern with every stretch of its length [lags]."""
    n = len(pattern)
    power = power - power.mean()  # keeps the differences of running sums small
    size = 1 << (len(power) + n - 1).bit_length()
    products = np.fft.irfft(np.fft.rfft(power, size) * np.conj(np.fft.rfft(pattern - pattern.mean(), size)), size)[: len(power) - n + 1]
    sums, squares = (np.concatenate([[0.0], np.cumsum(power**degree)]) for degree in (1, 2))
    variance = (squares[n:] - squares[:-n]) / n - ((sums[n:] - sums[:-n]) / n) ** 2
    scale = n * np.sqrt(np.maximum(variance, 0)) * pattern.std()
    flat = variance <= 1e-9 * max(float(power.var()), 1e-30)
    return np.where(flat, 0.0, products / np.where(flat, 1.0, scale))
