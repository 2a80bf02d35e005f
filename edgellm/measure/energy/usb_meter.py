"""USB power meters in the supply line (FNIRSI FNB48/FNB58, RuiDeng UM25C and the like), by the log that a program writes of them.

Logs that are read: text with one sample per line below a line of column names. Delimiters are commas, semicolons, tabs or spaces.

    fnirsi-usb-power-data-logger   `timestamp sample_in_packet voltage_V current_A dp_V ...`, spaces, seconds since 1970; the names come
                                   again where a second run was appended, and the packets' times overlap by some ms
    rd-usb (UM24C/25C/34C)         `Time,Voltage (V),Current (A),Power (W),...,Run time (seconds),Unix time,...`
    tables of meters' own programs `Time(D.hh:mm:ss.ms),Voltage(V),Current(A),Power(W)` below some lines of "key,value", and the like;
                                   with semicolons, numbers may have a decimal comma

Columns are found by name, and scaled by the unit behind it (V, mV, A, mA, W, mW, s, ms, us; none means V, A, W, s). Time is taken from
`timestamp` or `unix time` where there is one, and is seconds since 1970 if it is that large, or text as in ISO 8601, in local time if it
has no zone; else it is relative to the log's own beginning. Power is voltage times current where both are there.

A last line without its end is cut off, even if it looks well: half a number is a number. Lines that cannot be read are left out and
counted; where samples are missing, the reading has a gap.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from edgellm.errors import InvalidRequestError
from edgellm.measure.energy.provider import Kind, PowerSample

EPOCH_S = 1e9
"""A time that is at least this many seconds since 1970; a relative one never is."""
EPOCH_MS = 1e11
"""A time without a unit that is at least this is in milliseconds."""
MOST_UNREADABLE = 0.1
"""Of the lines; with more of them, the log is not what it was taken for."""

_TIME = ("timestamp", "unix time", "run time", "rel time", "elapsed time", "elapsed", "time", "datetime", "date")
_VOLTAGE = ("voltage", "vbus", "volt", "u")
_CURRENT = ("current", "ibus", "i")
_POWER = ("power", "p")
_SCALES = {
    **dict.fromkeys(("", "V", "v", "A", "a", "W", "w", "s", "sec", "seconds"), 1.0),
    **dict.fromkeys(("mV", "mv", "mA", "ma", "mW", "mw", "ms"), 0.001),
    "us": 1e-6,
}
_COLUMN = re.compile(r"(.*?)(?:\s*[(\[](.+)[)\]]|_(V|mV|A|mA|W|mW|s|ms|us))?")
_CLOCK = re.compile(r"(?:(\d+)\.)?(\d+):(\d\d):(\d\d(?:\.\d+)?)")


class MeterLogError(InvalidRequestError):
    """A power meter's log cannot be read; the message names the file, the line and what is wrong."""


@dataclass(frozen=True)
class MeterLog:
    """The samples of a log, in order of time.

    path:       of the file
    samples:    times are seconds since 1970 if `absolute`, else since some moment that only the meter knows
    unreadable: lines that were left out
    """

    path: Path
    samples: tuple[PowerSample, ...]
    absolute: bool
    unreadable: int

    kind: Kind = "measured"

    @property
    def period_s(self) -> float:
        """Seconds between samples: the median, of those that differ in time."""
        steps = np.diff([sample.at_s for sample in self.samples])
        return float(np.median(steps[steps > 0]))

    @property
    def source(self) -> str:
        """See `EnergyProvider.source`."""
        left_out = f", {self.unreadable} lines unreadable" if self.unreadable else ""
        return f"USB power meter, log {self.path.name} ({len(self.samples)} samples{left_out}); all that the supply delivers"


def read_log(path: Path) -> MeterLog:
    """Read a log; MeterLogError."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")  # units are ASCII; a degree sign may be of any code page
    except OSError as error:
        raise MeterLogError(f"cannot read the power meter's log {path}: {error}") from error
    *lines, cut_off = text.split("\n")
    try:
        samples, unreadable = _parse(lines)
    except MeterLogError as error:
        raise MeterLogError(f"{path}: {error}") from error
    absolute = samples[0].at_s >= EPOCH_S
    return MeterLog(path, tuple(samples), absolute, unreadable + bool(cut_off.strip()))


@dataclass(frozen=True)
class Columns:
    """Where in a line what is, and what it is multiplied with. `time_scale` is None where the column has no unit, or is a clock's."""

    delimiter: str | None
    time: int
    time_scale: float | None
    factors: tuple[tuple[int, float], ...]
    """Their product is the power: voltage and current, or the power alone."""

    def sample(self, line: str) -> PowerSample:
        """Of one line; ValueError or IndexError."""
        cells = split(line, self.delimiter)
        watts = math.prod(number(cells[index]) * scale for index, scale in self.factors)
        return PowerSample(seconds(cells[self.time], self.time_scale), watts)


def header(lines: Sequence[str]) -> tuple[str, Columns]:
    """The line of column names, and what it says; MeterLogError."""
    for line in lines:
        if found := columns(line):
            return line, found
    raise MeterLogError("no line names columns of time and power (or voltage and current), e.g. Time(s),Voltage(V),Current(A)")


def columns(line: str) -> Columns | None:
    """The columns that a line names; None if it is no line of names with a time and a power. MeterLogError: a unit is unknown."""
    delimiter = next((mark for mark in "\t;," if mark in line), None)
    try:
        names = [_name(cell) for cell in split(line, delimiter)]
    except ValueError:
        return None

    def find(wanted: Sequence[str]) -> tuple[int, str] | None:
        found = [(wanted.index(name), index, unit) for index, (name, unit) in enumerate(names) if name in wanted]
        return min(found)[1:] if found else None

    time, power, voltage, current = (find(wanted) for wanted in (_TIME, _POWER, _VOLTAGE, _CURRENT))
    factors = list(filter(None, [voltage, current] if voltage and current else [power]))
    if time is None or not factors:
        return None
    scaled = tuple((index, _scale(unit)) for index, unit in factors)
    return Columns(delimiter, time[0], None if not time[1] or ":" in time[1] else _scale(time[1]), scaled)


def split(line: str, delimiter: str | None) -> list[str]:
    """The cells of a line, quotes taken off, also those of a spreadsheet's ="text"; without a delimiter, whatever spaces part."""
    try:
        cells = next(csv.reader([line], delimiter=delimiter), []) if delimiter else line.split()
    except csv.Error as error:
        raise ValueError(f"{line!r}: {error}") from error
    return [cell.strip().removeprefix("=").strip('"').strip() for cell in cells]


def number(cell: str) -> float:
    """A finite number, with a decimal point or comma; ValueError."""
    value = float(cell.replace(",", "."))
    if not math.isfinite(value):
        raise ValueError(f"{cell} is not a number")
    return value


def seconds(cell: str, scale: float | None) -> float:
    """A time: a number, [D.]hh:mm:ss, or a date and time; ValueError."""
    if clock := _CLOCK.fullmatch(cell.replace(",", ".")):
        days, hours, minutes, rest = clock.groups(default="0")
        return int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(rest)
    if ":" in cell:
        return datetime.fromisoformat(cell.replace("/", "-")).timestamp()
    value = number(cell)
    return value * (scale if scale is not None else 1e-3 if value >= EPOCH_MS else 1)


def _name(cell: str) -> tuple[str, str]:
    match = _COLUMN.fullmatch(cell)
    assert match
    return match[1].strip().lower(), match[2] or match[3] or ""


def _scale(unit: str) -> float:
    if unit not in _SCALES:
        raise MeterLogError(f"a column is in {unit!r}; known units are {', '.join(filter(None, _SCALES))}")
    return _SCALES[unit]


def _parse(lines: Sequence[str]) -> tuple[list[PowerSample], int]:
    names, found = header(lines)
    samples: list[PowerSample] = []
    unreadable = 0
    for line in lines[lines.index(names) + 1 :]:
        if not line.strip() or line == names:  # what was appended later begins with the names again
            continue
        try:
            samples.append(found.sample(line))
        except (ValueError, IndexError, OverflowError):
            unreadable += 1
    _check(samples, unreadable)
    return sorted(samples, key=lambda sample: sample.at_s), unreadable


def _check(samples: Sequence[PowerSample], unreadable: int) -> None:
    if unreadable > MOST_UNREADABLE * (len(samples) + unreadable):
        raise MeterLogError(f"{unreadable} of {len(samples) + unreadable} lines below the column names cannot be read")
    if len({sample.at_s for sample in samples}) < 2:
        raise MeterLogError(f"{len(samples)} samples; at least two moments are needed")
    times = np.array([sample.at_s for sample in samples])
    if times[0] < EPOCH_S and (np.diff(times) < -1).any():
        at = int(np.argmin(np.diff(times))) + 2
        raise MeterLogError(f"times go back at sample {at}: two recordings in one file, or one over midnight; keep one")
