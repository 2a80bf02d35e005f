from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm.measure.energy.alignment import Alignment, Stretch, align, read_stretch
from edgellm.measure.energy.provider import PowerSample
from edgellm.measure.energy.usb_meter import MeterLog, MeterLogError

OBSERVED = Stretch(100.0, 130.0)
BUSY = [Stretch(105.0, 109.0), Stretch(110.0, 114.0), Stretch(117.0, 125.0)]
OFFSET_S = -62.37
"""The log's clock is behind, so the run begins 37.63 s into the log."""


def meter_log(rate_hz: float = 50, length_s: float = 90, noise_watts: float = 0.3, *, missing: tuple[float, float] = (0, 0)) -> MeterLog:
    """A log of 3 W, 7 W where the run was busy."""
    rng = np.random.default_rng(4)
    times = np.arange(0, length_s, 1 / rate_hz)
    times = times[(times < missing[0]) | (times >= missing[1])]
    busy = np.any([(times >= stretch.start_s + OFFSET_S) & (times < stretch.end_s + OFFSET_S) for stretch in BUSY], axis=0)
    watts = 3 + 4 * busy + rng.normal(0, noise_watts, len(times))
    return MeterLog(Path("log.csv"), tuple(map(PowerSample, times.tolist(), watts.tolist())), absolute=False, unreadable=0)


@pytest.mark.parametrize("rate_hz", [2, 50, 100])
def test_the_offset_is_found_within_its_uncertainty(rate_hz: float) -> None:
    found = align(meter_log(rate_hz), OBSERVED, BUSY)
    assert found.offset_s == pytest.approx(OFFSET_S, abs=found.uncertainty_s + 1e-6)
    assert 0.99 / rate_hz <= found.uncertainty_s <= 3 / rate_hz
    assert found.correlation is not None
    assert found.correlation > 0.9


def test_more_noise_makes_it_less_certain() -> None:
    quiet, noisy = (align(meter_log(rate_hz=10, noise_watts=watts), OBSERVED, BUSY) for watts in (0.1, 2.0))
    assert noisy.uncertainty_s > quiet.uncertainty_s
    assert noisy.offset_s == pytest.approx(OFFSET_S, abs=noisy.uncertainty_s)


def test_runs_without_pauses_are_one_block() -> None:
    """Pauses of a millisecond fall between samples, or on one."""
    runs = [Stretch(117 + index / 10, 117 + (index + 1) / 10 - 0.001) for index in range(80)]
    found = align(meter_log(100), OBSERVED, [*BUSY[:2], *runs])
    assert found.offset_s == pytest.approx(OFFSET_S, abs=found.uncertainty_s + 1e-6)
    assert found.uncertainty_s < 0.05


def test_missing_samples_do_not_hide_it() -> None:
    assert align(meter_log(missing=(50, 52)), OBSERVED, BUSY).offset_s == pytest.approx(OFFSET_S, abs=0.05)


def test_energy_of_a_run_in_the_log() -> None:
    log = meter_log()
    reading = read_stretch(log, align(log, OBSERVED, BUSY), BUSY[2])
    assert reading.joules == pytest.approx(8 * 7, rel=0.02)
    assert reading.sample_rate_hz == pytest.approx(50)
    assert "aligned to ±0.02 s, found by load edges, r = 0.99" in reading.source


def test_a_given_offset() -> None:
    reading = read_stretch(meter_log(), Alignment(OFFSET_S, 0.1), BUSY[0])
    assert reading.joules == pytest.approx(4 * 7, rel=0.02)
    assert reading.source.endswith("aligned to ±0.1 s, given")


def test_a_run_too_short_for_its_alignment_has_no_reading() -> None:
    reading = read_stretch(meter_log(), Alignment(OFFSET_S, 0.5), BUSY[0])
    assert (reading.joules, reading.watts) == (None, None)
    assert "4 s are too short for an alignment to ±0.5 s" in reading.problem


@pytest.mark.parametrize(
    ("log", "observed", "busy", "problem"),
    [
        (meter_log(length_s=20), OBSERVED, BUSY, "20.0 s of log for a run of 30 s"),
        (meter_log(length_s=36), OBSERVED, BUSY, "nothing in it looks like the run"),
        (meter_log(), Stretch(105, 109), [Stretch(105, 109)], "has no edge"),
        (meter_log(), Stretch(104.8, 109.2), [Stretch(105, 109)], "the run fits about as well [45].0 s away"),
    ],
    ids=["shorter than the run", "of another time", "always busy", "two places"],
)
def test_where_nothing_or_too_much_fits(log: MeterLog, observed: Stretch, busy: list[Stretch], problem: str) -> None:
    with pytest.raises(MeterLogError, match=problem):
        align(log, observed, busy)


def test_a_log_too_long_to_be_searched() -> None:
    samples = tuple(PowerSample(at_s, 1.0) for at_s in (0.0, 0.001, 0.002, 1e6))
    with pytest.raises(MeterLogError, match="too long to be searched"):
        align(MeterLog(Path("log.csv"), samples, absolute=False, unreadable=0), OBSERVED, BUSY)
