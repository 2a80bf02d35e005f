"""A USB power meter while its log is being written: another program reads the meter, and we read what it appends.

Its times must be seconds since 1970 by this machine's clock, which is what makes an alignment unnecessary. Programs that write into a
file keep lines back until a block is full: start one in Python with `python -u`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edgellm.measure.energy.provider import Clock, EnergyUnavailableError, Kind, PowerSample
from edgellm.measure.energy.usb_meter import header, read_log

POLL_S = 0.05
STALE_S = 10.0
"""A log whose last sample is older is not being written."""


class LiveLogProvider:
    """The meter behind a log. MeterLogError: it cannot be read. EnergyUnavailableError: it cannot be followed."""

    name = "usb-meter"
    kind: Kind = "measured"

    def __init__(self, path: Path, now: Clock = time.time) -> None:
        log = read_log(path)
        if not log.absolute:
            raise EnergyUnavailableError(
                f"{path}: its times are relative; import it after the run (--energy later, then edgellm energy --log)"
            )
        if (age_s := now() - log.samples[-1].at_s) > STALE_S:
            raise EnergyUnavailableError(f"{path}: its last sample is {age_s:.0f} s old; start the meter's program (unbuffered) first")
        self._path, self._now = path, now
        self.sample_rate_hz = 1 / log.period_s
        self.source = f"USB power meter, live log {path.name}; all that the supply delivers"

    def stream(self, clock: Clock) -> LiveLogStream:
        """See `PowerProvider.stream`."""
        return LiveLogStream(self._path, clock, self._now)


class LiveLogStream:
    """What is appended to the log from now on. A line that cannot be read is left out, and is missing as any sample would be."""

    def __init__(self, path: Path, clock: Clock, now: Clock) -> None:
        self._clock, self._now = clock, now
        self._closed = threading.Event()
        try:
            self._file = path.open("rb")
            *lines, self._partial = self._file.read().split(b"\n")
        except OSError as error:
            raise EnergyUnavailableError(f"cannot follow the power meter's log {path}: {error}") from error
        _, self._columns = header([line.decode("utf-8-sig", errors="replace") for line in lines])

    def __iter__(self) -> Iterator[PowerSample]:
        with self._file:
            while not self._closed.wait(POLL_S):
                yield from self._appended()

    def close(self) -> None:
        """See `PowerStream.close`."""
        self._closed.set()

    def _appended(self) -> Iterator[PowerSample]:
        *lines, self._partial = (self._partial + self._file.read()).split(b"\n")
        ahead_s = self._now() - self._clock()
        for line in lines:
            try:
                sample = self._columns.sample(line.decode(errors="replace"))
            except (ValueError, IndexError, OverflowError):
                continue
            yield PowerSample(sample.at_s - ahead_s, sample.watts)
