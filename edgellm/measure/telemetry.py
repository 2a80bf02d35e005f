"""What the operating system says of the process that computes and of the machine, read between rounds: a thread that sampled meanwhile
would disturb what it watches.

`Telemetry` gives, for each round, a JSON-able dict. A value that can't be read is None, a gap: a server's process may have ended, a
container masks files, a machine has no such sensor.

    wall_seconds                               from begin() to end()
    cpu_seconds, cpu_utilisation               of the process, all its threads; utilisation 1 is one core's
    minor_faults, major_faults                 pages that it first touched, and that had to be read from storage
    voluntary_switches, involuntary_switches   how often its threads slept, and how often they were made to give way
    storage_read_bytes                         that the page cache did not have
    rss_bytes, peak_rss_bytes                  resident memory at the end, and the most that there ever was
    stolen_share                               of all processors' time, what other guests of the machine had; in steps of 10 ms
    throttle_events                            how often x86 cores were throttled for heat
    frequency_mhz, ...                         the levels at the end, see `edgellm.measure.sensors`
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from edgellm.errors import InvalidRequestError
from edgellm.measure.process import OtherProcess, OwnProcess, Process, Usage, switches_between
from edgellm.measure.sensors import Sensors

COUNTED = ("cpu_seconds", "minor_faults", "major_faults", "storage_read_bytes")


class Telemetry:
    """Of the process with this id, this one or another; None: unknown, or on another machine. `root` is where /proc and /sys lie.

    begin() and end() together take 0.2 ms (AMD EPYC, 2 processors) and 0.01 ms for each file of a sensor; of another process than this
    one 0.1 ms more, and 0.08 ms for each of its threads. A command, where there is one, takes what it takes, every few seconds.
    """

    def __init__(self, process_id: int | None, root: Path = Path("/")) -> None:
        self._process = None if process_id is None else _process(process_id, root)
        self._sensors = Sensors(root)
        self._begin: tuple[int | None, Bystanders, Usage, int] | None = None

    def begin(self) -> None:
        """Note where the counters stand; what this costs itself lies before that."""
        throttle_count, bystanders = self._sensors.throttle_count(), Bystanders()
        self._begin = throttle_count, bystanders, self._usage(), time.perf_counter_ns()

    def end(self) -> dict[str, Any]:
        """The fields above, since the last begin()."""
        if self._begin is None:
            raise InvalidRequestError("telemetry ends what it has begun: call begin() before end()")
        wall_ns, after = time.perf_counter_ns(), self._usage()
        throttle_count, bystanders, before, begin_ns = self._begin
        wall_seconds, shares = (wall_ns - begin_ns) / 1e9, bystanders.shares()
        counted = {name: _difference(getattr(before, name), getattr(after, name)) for name in COUNTED}
        voluntary, involuntary = switches_between(before, after)
        cpu_seconds = counted["cpu_seconds"]
        return {
            "wall_seconds": wall_seconds,
            "cpu_utilisation": None if cpu_seconds is None else cpu_seconds / wall_seconds,
            **counted,
            "voluntary_switches": voluntary,
            "involuntary_switches": involuntary,
            "rss_bytes": after.rss_bytes,
            "peak_rss_bytes": after.peak_rss_bytes,
            "stolen_share": shares and shares["stolen"],
            "throttle_events": _difference(throttle_count, self._sensors.throttle_count()),
            **self._sensors.levels(),
        }

    def _usage(self) -> Usage:
        return self._process.usage() if self._process else Usage()


class Bystanders:
    """How much of the processors' time others had since this was made: other processes, and other guests of the same machine."""

    def __init__(self) -> None:
        self._begin = _processor_time()

    def shares(self) -> dict[str, float] | None:
        """`others` and `stolen` (by other guests), of all processors' time; None where the system does not say."""
        now = _processor_time()
        if now is None or self._begin is None:
            return None
        total, busy, stolen, own = (after - before for before, after in zip(self._begin, now, strict=True))
        return {"others": max(busy - own, 0) / total, "stolen": stolen / total} if total > 0 else None


def _process(process_id: int, root: Path) -> Process:
    return OwnProcess(root) if process_id == os.getpid() else OtherProcess(process_id, root)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _processor_time() -> tuple[float, float, float, float] | None:
    """Seconds of all processors since the machine started: in all, at work, stolen; and what this process and its children had of them."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, idle, waiting, interrupt, soft_interrupt, stolen = (count / os.sysconf("SC_CLK_TCK") for count in ticks)
    except (OSError, ValueError):
        return None
    busy = user + nice + system + interrupt + soft_interrupt
    own = os.times()
    return busy + idle + waiting + stolen, busy, stolen, sum(own[:4])
