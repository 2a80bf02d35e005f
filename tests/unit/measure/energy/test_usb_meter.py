from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from edgellm.measure.energy.usb_meter import MeterLog, MeterLogError, read_log
from tests.unit.measure.energy import recorded


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.csv"


def read(log: Path, text: str) -> MeterLog:
    log.write_bytes(text.encode())
    return read_log(log)


def watts(log: MeterLog) -> list[float]:
    return [sample.watts for sample in log.samples]


def test_fnirsi_logger(log: Path) -> None:
    """Overlapping packets are put in order, the second run's names are skipped, half a line at the end is not read."""
    parsed = read(log, recorded.FNIRSI_LOGGER)
    assert watts(parsed) == pytest.approx([2.0, 2.0, 2.0, 2.5, 2.5, 3.0])
    assert [sample.at_s for sample in parsed.samples][:3] == [1657568326.775, 1657568326.784, 1657568326.785]
    assert (parsed.absolute, parsed.unreadable) == (True, 1)
    assert parsed.source.startswith("USB power meter, log log.csv (6 samples, 1 lines unreadable)")


def test_rd_usb_with_um25c(log: Path) -> None:
    """Fractions of seconds are in the last column only, and a sample lacks its current."""
    parsed = read(log, recorded.RD_USB)
    assert watts(parsed)[:3] == pytest.approx([2.54, 3.048, 5.07])
    assert [sample.at_s for sample in parsed.samples][:3] == [1772366400.25, 1772366400.75, 1772366401.75]
    assert (parsed.unreadable, parsed.period_s) == (1, 0.5)


def test_lines_before_the_names_and_spreadsheet_quotes(log: Path) -> None:
    parsed = read(log, recorded.METER_TABLE)
    assert [sample.at_s for sample in parsed.samples] == pytest.approx([0, 0.1, 0.2, 60.3])
    assert watts(parsed) == pytest.approx([2.55, 2.55, 5.0, 5.0])
    assert not parsed.absolute


def test_decimal_commas_milliunits_a_byte_order_mark_and_carriage_returns(log: Path) -> None:
    parsed = read(log, recorded.DECIMAL_COMMA)
    assert [sample.at_s for sample in parsed.samples] == pytest.approx([0, 0.1, 0.2])
    assert watts(parsed) == pytest.approx([2.5025, 3.0, 3.0])


@pytest.mark.parametrize(
    ("names", "first", "second", "times"),
    [
        ("timestamp,power_mW", "1772366400000,2500", "1772366400500,2500", (1772366400.0, 1772366400.5)),
        ("Time;Power (W)", "2026-03-01T12:00:00,250+00:00;2,5", "2026-03-01T12:00:01.250+00:00;2,5", (1772366400.25, 1772366401.25)),
        ("Time (s)\tPower [W]", "1.5\t2.5", "2.0\t2.5", (1.5, 2.0)),
        ("elapsed_ms,P_W", '100,"2,5"', "200,2.5", (0.1, 0.2)),
        ("time power", "1:00:00 2.5", "1.01:00:00.5 2.5", (3600, 90000.5)),
    ],
    ids=["milliseconds since 1970", "ISO 8601", "tabs", "quoted comma", "hours and days"],
)
def test_times_and_units(log: Path, names: str, first: str, second: str, times: tuple[float, float]) -> None:
    parsed = read(log, f"{names}\n{first}\n{second}\n")
    assert [sample.at_s for sample in parsed.samples] == pytest.approx(times)
    assert watts(parsed) == pytest.approx([2.5, 2.5])


def test_times_in_whole_seconds(log: Path) -> None:
    """Two samples have the same time then, and the sampling period is not 0."""
    assert read(log, "time,power\n0,1\n0,1\n0,1\n1,1\n1,1\n1,1\n2,1\n").period_s == 1


def test_voltage_times_current_comes_before_rounded_power(log: Path) -> None:
    assert watts(read(log, "time,voltage,current,power\n0,5.123,0.5,2.6\n1,5.123,0.5,2.6\n")) == pytest.approx([2.5615, 2.5615])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no line names columns"),
        ("\0\0\0\0", "no line names columns"),
        ("time,temperature\n0,1\n", "no line names columns"),
        ("time,voltage (V),accumulated power (mWh)\n0,5,1\n", "no line names columns"),
        ("time,power (kW)\n0,1\n1,1\n", "a column is in 'kW'; known units are"),
        ("time (min),power\n0,1\n1,1\n", "a column is in 'min'"),
        ("time,power\n", "0 samples; at least two moments"),
        ("time,power\n0,1\n1,", "1 samples; at least two moments"),
        ("time,power\n0,1\n0,2\n", "2 samples; at least two moments"),
        ("time,power\n0,1\n1,2\nx,1\n2,nan\n3,\n4\n5,inf\n", "5 of 7 lines below the column names cannot be read"),
        ("time,power\n0,1\n1,1\n2,1\n0,1\n1,1\n", "times go back at sample 4: two recordings"),
    ],
    ids=[
        "empty",
        "binary",
        "no power",
        "energy is no power",
        "unknown unit",
        "unknown unit of time",
        "no sample",
        "cut off",
        "one moment",
        "mostly rubbish",
        "two recordings",
    ],
)
def test_what_is_no_log(log: Path, text: str, problem: str) -> None:
    with pytest.raises(MeterLogError, match=problem) as raised:
        read(log, text)
    assert str(log) in str(raised.value)


def test_a_file_that_is_not_there(log: Path) -> None:
    with pytest.raises(MeterLogError, match=r"cannot read the power meter's log .*log\.csv"):
        read_log(log)


@pytest.mark.parametrize("end", range(0, len(recorded.RD_USB), 37))
def test_a_log_cut_off_anywhere_never_gives_a_sample_that_was_not_in_it(log: Path, end: int) -> None:
    whole = set(read(log, recorded.RD_USB).samples)
    with contextlib.suppress(MeterLogError):
        assert set(read(log, recorded.RD_USB[:end]).samples) <= whole
