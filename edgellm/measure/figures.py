"""What rounds come to: the figures that budgets and tables name, each with its 95% interval where there is one.

Of every quantity (`ttft`, `itl`, `e2e`, or what a test times itself): NAME_p50_ms, _p95_ms, _p99_ms, _mean_ms, _std_ms, _mad_ms, _max_ms,
_p99_over_p50, _max_over_p50. Rounds do not depend on each other, so their percentiles get order-statistic intervals; the latencies of one
round's tokens do, so theirs are bootstrapped by round. (Rounds of a machine that drifts do depend on each other: `spin_drift` says whether
it did, and the intervals are then too narrow.) Of rounds besides:

    run_jitter_std_ms    standard deviation of the end-to-end time over rounds: how much one answer differs from the next
    tokens_per_second    decoded tokens (all but the first) over the time that they took, mean over rounds
    itl_deadline_misses  tokens that took longer than the deadline, where one was given
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgellm.measure import statistics
from edgellm.measure.protocol import Round
from edgellm.measure.statistics import F64, Interval, bootstrap_interval, mean_ci95, percentile, percentile_interval, rounds_needed

RESAMPLES = 1000
PERCENTILES = (50, 95, 99)
SCATTER: dict[str, Callable[[F64], F64]] = {
    "std_ms": statistics.std,
    "mad_ms": statistics.mad,
    "p99_over_p50": statistics.p99_over_p50,
    "max_over_p50": statistics.max_over_p50,
}


@dataclass
class Figures:
    """Figures by their names.

    values:        the figure
    intervals:     where it lies with 95% confidence; a side is None that the rounds cannot bound
    rounds_needed: how many rounds would bound both sides, of figures whose interval is open
    """

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    rounds_needed: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: float, interval: Interval | None = None) -> None:
        """Another one."""
        self.values[name] = value
        if interval is not None:
            self.intervals[name] = interval

    def drop(self, name: str) -> None:
        """Without this one."""
        for each in (self.values, self.intervals, self.rounds_needed):
            each.pop(name, None)

    def update(self, other: Figures) -> None:
        """Take another's."""
        self.values.update(other.values)
        self.intervals.update(other.intervals)
        self.rounds_needed.update(other.rounds_needed)


def figures_of_rounds(rounds: Sequence[Round], deadline_ms: float | None = None) -> Figures:
    """Of at least one round; inter-token figures are left out where no round has two tokens."""
    figures = figures_of_samples("ttft", [each.ttft_ns for each in rounds])
    figures.update(figures_of_samples("e2e", [each.e2e_ns for each in rounds]))
    if "e2e_std_ms" in figures.values:
        figures.add("run_jitter_std_ms", figures.values["e2e_std_ms"], figures.intervals.get("e2e_std_ms"))
    if decoded := [each for each in rounds if each.itl_ns]:
        figures.update(_inter_token(decoded))
        if deadline_ms is not None:
            figures.add("itl_deadline_misses", sum(ns > deadline_ms * 1e6 for each in decoded for ns in each.itl_ns))
    return figures


def figures_of_samples(name: str, samples_ns: Sequence[int]) -> Figures:
    """Of what was timed once a round."""
    figures, samples = Figures(), np.asarray(samples_ns) / 1e6
    for q in PERCENTILES:
        interval = percentile_interval(samples, q)
        figures.add(f"{name}_p{q}_ms", percentile(samples, q), interval)
        if None in interval:
            figures.rounds_needed[f"{name}_p{q}_ms"] = rounds_needed(q)
    figures.add(f"{name}_mean_ms", float(samples.mean()), _both(mean_ci95(samples)))
    figures.add(f"{name}_max_ms", float(samples.max()))
    _add_scatter(figures, name, [[sample] for sample in samples])
    return figures


def _inter_token(rounds: Sequence[Round]) -> Figures:
    figures, by_round = Figures(), [np.asarray(each.itl_ns) / 1e6 for each in rounds]
    pooled = np.concatenate(by_round)
    for q in PERCENTILES:
        figures.add(f"itl_p{q}_ms", percentile(pooled, q), bootstrap_interval(_percentile(q), by_round, resamples=RESAMPLES))
    figures.add("itl_mean_ms", float(pooled.mean()), _both(mean_ci95([float(each.mean()) for each in by_round])))
    figures.add("itl_max_ms", float(pooled.max()))
    _add_scatter(figures, "itl", by_round)
    if all(each.any() for each in by_round):  # where all tokens of an answer come at once, there is no rate
        rates = [1e3 / float(each.mean()) for each in by_round]
        figures.add("tokens_per_second", float(np.mean(rates)), _both(mean_ci95(rates)))
    return figures


def _percentile(q: int) -> Callable[[F64], F64]:
    return lambda samples: np.asarray(np.percentile(samples, q, axis=-1))


def _add_scatter(figures: Figures, name: str, by_round: Sequence[Sequence[float] | F64]) -> None:
    """Figures of how much the samples scatter; a single sample does not, and ratios need a median that is not 0."""
    pooled = np.concatenate([np.asarray(each, np.float64) for each in by_round])
    for figure, statistic in SCATTER.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(pooled))
        if pooled.size > 1 and np.isfinite(value):
            figures.add(f"{name}_{figure}", value, bootstrap_interval(statistic, by_round, resamples=RESAMPLES))


def _both(interval: tuple[float, float] | None) -> Interval | None:
    return Interval(*interval) if interval else None
