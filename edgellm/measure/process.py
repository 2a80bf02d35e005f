"""What a process used since it started, and the memory that it has.

This process asks getrusage(2), which counts all of its threads. Of another one Linux tells through /proc/PID (proc_pid_stat(5),
proc_pid_status(5), proc_pid_io(5)) and its processor clock (clock_getcpuclockid(3)). What can't be read is None.

The resident memory is `status`'s: `smaps_rollup` would also say what is shared, but walks all pages, which takes milliseconds.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgellm.runtime.machine import read_text

ROOT = Path("/")


@dataclass(frozen=True)
class Usage:
    """One reading. Counts go up from the start of the process; `switches` has each thread's, voluntary and involuntary, by its id."""

    cpu_seconds: float | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    switches: Mapping[int, tuple[int, int]] | None = None
    storage_read_bytes: int | None = None
    rss_bytes: int | None = None
    peak_rss_bytes: int | None = None


class Process(Protocol):
    """A process that can be asked again and again."""

    def usage(self) -> Usage:
        """What it says now; all None once it has ended."""


class OwnProcess:
    """This one, all its threads. `root` is where /proc lies."""

    def __init__(self, root: Path = ROOT) -> None:
        self._proc = root / "proc/self"

    def usage(self) -> Usage:
        """Takes 0.05 ms."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        rss_bytes, peak = memory_of(read_text(self._proc / "status"))
        return Usage(
            cpu_seconds=used.ru_utime + used.ru_stime,
            minor_faults=used.ru_minflt,
            major_faults=used.ru_majflt,
            switches={os.getpid(): (used.ru_nvcsw, used.ru_nivcsw)},
            storage_read_bytes=storage_read_bytes(read_text(self._proc / "io")),
            rss_bytes=rss_bytes,
            peak_rss_bytes=_largest(used) if peak is None else peak,
        )


class OtherProcess:
    """The one that has this id now: once it has ended, another one that is given its id is not taken for it."""

    def __init__(self, process_id: int, root: Path = ROOT) -> None:
        self._id = process_id
        self._proc = root / f"proc/{process_id}"
        self._started = _started(stat_fields(read_text(self._proc / "stat")))

    def usage(self) -> Usage:
        """Takes 0.1 ms, and 0.03 ms for each thread."""
        fields = stat_fields(read_text(self._proc / "stat"))
        if self._started is None or _started(fields) != self._started:
            return Usage()
        rss_bytes, peak_rss_bytes = memory_of(read_text(self._proc / "status"))
        return Usage(
            cpu_seconds=_cpu_seconds(self._id),
            minor_faults=_number(fields.get("minflt")),
            major_faults=_number(fields.get("majflt")),
            switches=self._switches(),
            storage_read_bytes=storage_read_bytes(read_text(self._proc / "io")),
            rss_bytes=rss_bytes,
            peak_rss_bytes=peak_rss_bytes,
        )

    def _switches(self) -> dict[int, tuple[int, int]] | None:
        """By thread: the process's own `status` counts only its first."""
        try:
            threads = [path for path in (self._proc / "task").iterdir() if path.name.isdecimal()]
        except OSError:
            return None
        found = {int(path.name): switches_of(read_text(path / "status")) for path in threads}
        return {thread: switches for thread, switches in found.items() if switches is not None} or None


def peak_rss_bytes() -> int:
    """The most memory that was resident in this process so far.

    Linux's VmHWM, because there `ru_maxrss` starts at what the parent process held when it started this one.
    """
    peak = memory_of(read_text("/proc/self/status"))[1]
    return _largest(resource.getrusage(resource.RUSAGE_SELF)) if peak is None else peak


def switches_between(before: Usage, after: Usage) -> tuple[int, int] | tuple[None, None]:
    """Voluntary and involuntary context switches from one reading to the next, less those of threads that ended in between."""
    if before.switches is None or after.switches is None:
        return None, None
    earlier = [before.switches.get(thread, (0, 0)) for thread in after.switches]
    voluntary, involuntary = (
        sum(now[kind] for now in after.switches.values()) - sum(then[kind] for then in earlier) for kind in (0, 1)
    )  # fmt: skip
    return voluntary, involuntary


def stat_fields(text: str | None) -> dict[str, str]:
    """Some fields of /proc/PID/stat by name; none of a zombie, whose numbers are no longer those of a running program.

    The second field is the program's name in parentheses and may hold anything, parentheses and blanks too.
    """
    rest = (text or "").rpartition(")")[2].split()
    if len(rest) < 20 or rest[0] in "ZXx":
        return {}
    return {"minflt": rest[7], "majflt": rest[9], "starttime": rest[19]}


def memory_of(text: str | None) -> tuple[int | None, int | None]:
    """Resident memory and the most that it ever was, in bytes, of /proc/PID/status."""
    peak, rss = (_field(name, text) for name in ("VmHWM", "VmRSS"))
    return rss and rss * 1024, peak and peak * 1024


def switches_of(text: str | None) -> tuple[int, int] | None:
    """Voluntary and involuntary context switches, of a thread's status."""
    voluntary, involuntary = (_field(name, text) for name in ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"))
    return None if voluntary is None or involuntary is None else (voluntary, involuntary)


def storage_read_bytes(text: str | None) -> int | None:
    """What was read from storage rather than from the page cache, of /proc/PID/io."""
    return _field("read_bytes", text)


def _largest(used: resource.struct_rusage) -> int:
    return used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss * 1024


def _started(fields: Mapping[str, str]) -> int | None:
    return _number(fields.get("starttime"))


def _cpu_seconds(process_id: int) -> float | None:
    """By the process's clock, in nanoseconds where `stat` counts hundredths of a second; its id is made as the C library makes it."""
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime_ns(~process_id << 3 | 2) / 1e9
    except (OSError, OverflowError):
        return None


def _field(name: str, text: str | None) -> int | None:
    """A number of a line "name:  123", or "name:  123 kB"."""
    match = re.search(rf"^{name}:\s*(\d+)(?: kB)?$", text or "", re.MULTILINE)
    return int(match[1]) if match else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
