from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.measure.energy import live_log
from edgellm.measure.energy.live_log import LiveLogProvider
from edgellm.measure.energy.meter import EnergyMeter
from edgellm.measure.energy.provider import EnergyUnavailableError
from tests.unit.measure.energy import recorded

BEGIN_S = 1772366400.0


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(live_log, "POLL_S", 0.001)
    path = tmp_path / "live.log"
    path.write_text(f"timestamp voltage_V current_A\n{BEGIN_S} 5.0 0.5\n{BEGIN_S + 0.1} 5.0 0.5\n{BEGIN_S + 0.2} 5.")
    return path


def test_what_is_appended(log: Path) -> None:
    """Times are by the system's clock, and the meter's own reads 1000 s now. The half line that was there is completed first."""
    provider = LiveLogProvider(log, lambda: BEGIN_S + 0.3)
    assert provider.sample_rate_hz == pytest.approx(10)
    stream = provider.stream(lambda: 1000.0)
    with log.open("a") as file:
        file.write(f"0 0.8\n{BEGIN_S + 0.3} 5.0 1.0\nrubbish\nno 5.0 number\n{BEGIN_S + 0.4}")
    items = iter(stream)
    assert [(sample.at_s, sample.watts) for sample in (next(items), next(items))] == [
        pytest.approx(pair) for pair in ((999.9, 4), (1000, 5))
    ]
    stream.close()
    assert list(items) == []


def test_a_meter_reads_it(log: Path) -> None:
    seconds = [0.5]

    def call() -> None:
        with log.open("a") as file:
            file.write("0 0.5\n" + "".join(f"{BEGIN_S + index / 10:.1f} 5.0 1.0\n" for index in range(3, 40)))
        seconds[0] = 2.5

    with EnergyMeter(LiveLogProvider(log, lambda: BEGIN_S + seconds[0]), lambda: seconds[0]) as meter:
        reading = meter.measure(call)
    assert reading.joules == pytest.approx(5 * 2)
    assert (reading.samples, reading.gaps) == (21, ())


@pytest.mark.parametrize(
    ("text", "now_s", "problem"),
    [
        (recorded.METER_TABLE, 0, "its times are relative; import it after the run"),
        (recorded.RD_USB, 1772366505.25, "its last sample is 100 s old; start the meter's program"),
    ],
)
def test_a_log_that_is_not_being_written(log: Path, text: str, now_s: float, problem: str) -> None:
    log.write_text(text)
    with pytest.raises(EnergyUnavailableError, match=problem):
        LiveLogProvider(log, lambda: now_s)


def test_a_log_that_is_taken_away(log: Path) -> None:
    provider = LiveLogProvider(log, lambda: BEGIN_S)
    log.unlink()
    with pytest.raises(EnergyUnavailableError, match="cannot follow the power meter's log"), EnergyMeter(provider):
        pass
