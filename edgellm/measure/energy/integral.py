"""From samples of watts to the joules of a window: the trapezoidal rule, with gaps reported.

Where neighbouring samples lie further apart than `GAP_PERIODS` sampling periods, something is missing, and nobody knows what the power
did meanwhile. A straight line still goes across, but the gap is listed, and a window that consists of gaps for more than
`MOST_GAPS` of its length has no reading at all. Nor has one with fewer than `FEWEST_SAMPLES`. The power at the window's ends is
interpolated between the samples around each; where there is none outside, the nearest one holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from edgellm.measure.energy.provider import EnergyReading, Gap, Kind, PowerSample

GAP_PERIODS = 2.5
MOST_GAPS = 0.1
FEWEST_SAMPLES = 5


def read_window(
    samples: Sequence[PowerSample], start_s: float, end_s: float, *, source: str, kind: Kind, rate_hz: float, why: str = ""
) -> EnergyReading:
    """The energy between two times; samples in order of time, those around the window among them.

    why: some are missing, if that is known; it goes into the problem that the reading has, if it has one.
    """
    seconds = end_s - start_s
    inside = [sample for sample in samples if start_s <= sample.at_s <= end_s]
    gaps = _gaps(samples, start_s, end_s, GAP_PERIODS / rate_hz)
    joules = _integral(samples, start_s, end_s) if inside else 0.0
    problem = _problem(len(inside), seconds, sum(gap.seconds for gap in gaps), joules)
    return EnergyReading(
        joules=None if problem else joules,
        seconds=seconds,
        watts=None if problem else joules / seconds,
        source=source,
        kind=kind,
        sample_rate_hz=rate_hz,
        samples=len(inside),
        gaps=gaps,
        problem=f"{problem} ({why})" if problem and why else problem,
    )


def _problem(inside: int, seconds: float, missing_s: float, joules: float) -> str:
    if inside < FEWEST_SAMPLES:
        return f"{inside} samples in a window of {seconds:.3g} s; at least {FEWEST_SAMPLES} are needed, so let it make more tokens"
    if missing_s > MOST_GAPS * seconds:
        return f"samples are missing for {missing_s:.3g} of {seconds:.3g} s; at most {MOST_GAPS:.0%} may be"
    if joules <= 0:
        return f"the samples sum up to {joules:.3g} J: is the meter connected, and the right way round?"
    return ""


def _gaps(samples: Sequence[PowerSample], start_s: float, end_s: float, longest_s: float) -> tuple[Gap, ...]:
    """Stretches of the window between samples that lie too far apart, or between its ends and the first or last sample."""
    times = [sample.at_s for sample in samples]
    times = [min(start_s, *times[:1]), *times, max(end_s, *times[-1:])] if times else [start_s, end_s]
    stretches = [(max(before, start_s), min(after, end_s)) for before, after in pairwise(times) if after - before > longest_s]
    return tuple(Gap(begin - start_s, end - begin) for begin, end in stretches if end > begin)


def _integral(samples: Sequence[PowerSample], start_s: float, end_s: float) -> float:
    times = np.array([sample.at_s for sample in samples])
    watts = np.array([sample.watts for sample in samples])
    within = (times > start_s) & (times < end_s)
    at = np.concatenate([[start_s], times[within], [end_s]])
    power = np.concatenate([[np.interp(start_s, times, watts)], watts[within], [np.interp(end_s, times, watts)]])
    return float(np.trapezoid(power, at))
