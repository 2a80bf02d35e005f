from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgellm.measure.energy.integral import read_window
from edgellm.measure.energy.provider import EnergyReading, Gap, PowerSample


def read(samples: list[tuple[float, float]], start_s: float, end_s: float, rate_hz: float = 10) -> EnergyReading:
    return read_window([PowerSample(*sample) for sample in samples], start_s, end_s, source="x", kind="measured", rate_hz=rate_hz)


def listed(gaps: Sequence[Gap]) -> list[object]:
    return [(gap.start_s, gap.seconds) for gap in gaps]


def ramp(first: float, last: float, rate_hz: float = 10) -> list[tuple[float, float]]:
    """Power that grows by 1 W per second."""
    return [(first + index / rate_hz, first + index / rate_hz) for index in range(round((last - first) * rate_hz) + 1)]


def test_a_ramp_is_integrated_exactly_also_between_samples() -> None:
    reading = read(ramp(0, 4), 1.03, 3.07)
    assert reading.joules == pytest.approx((3.07**2 - 1.03**2) / 2)
    assert reading.watts == pytest.approx((3.07 + 1.03) / 2)
    assert (reading.samples, reading.gaps, reading.problem) == (20, (), "")


def test_a_gap_is_reported() -> None:
    samples = [sample for sample in ramp(0, 12) if not 5 < sample[0] < 5.5]
    reading = read(samples, 1, 11)
    assert listed(reading.gaps) == [pytest.approx((4, 0.5))]
    assert reading.joules == pytest.approx(60)


def test_samples_that_begin_and_end_inside_of_the_window_by_less_than_a_gap() -> None:
    reading = read(ramp(1.1, 2.9), 1, 3)
    assert (reading.gaps, reading.problem) == ((), "")


@pytest.mark.parametrize(
    ("samples", "gaps"),
    [
        (ramp(0, 12)[:60], [(4.9, 5.1)]),
        (ramp(0, 12)[60:], [(0, 5)]),
        (ramp(0, 3) + ramp(7, 12), [(2, 4)]),
        (ramp(0, 0.5) + ramp(4, 12), [(0, 3)]),
    ],
    ids=["the end", "the beginning", "the middle", "from before the beginning"],
)
def test_a_window_that_lacks_too_much_has_no_reading(samples: list[tuple[float, float]], gaps: list[tuple[float, float]]) -> None:
    reading = read(samples, 1, 11)
    assert (reading.joules, reading.watts) == (None, None)
    assert "samples are missing for" in reading.problem
    assert listed(reading.gaps) == [pytest.approx(gap) for gap in gaps]


@pytest.mark.parametrize("samples", [[], [(0.0, 5.0)], ramp(1, 1.3)])
def test_too_few_samples(samples: list[tuple[float, float]]) -> None:
    reading = read(samples, 1, 1.3)
    assert reading.joules is None
    assert reading.samples == len([sample for sample in samples if sample[0] >= 1])
    assert f"{reading.samples} samples in a window of 0.3 s; at least 5 are needed" in reading.problem


@pytest.mark.parametrize("watts", [0.0, -3.0])
def test_power_that_flows_nowhere_or_back(watts: float) -> None:
    reading = read([(index / 10, watts) for index in range(31)], 1, 2)
    assert reading.joules is None
    assert "the right way round" in reading.problem
