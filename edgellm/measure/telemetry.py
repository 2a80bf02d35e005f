"""What the operating system says of this process."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """The most memory that was resident in this process so far.

    Linux's VmHWM, because there `ru_maxrss` starts at what the parent process held when it started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
