"""How many threads are worth having: the cores that affinity, the processor's topology and control groups leave this process.

All of it is read from where Linux keeps it. Elsewhere the number of processors is all that is known.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from edgellm.errors import EdgeLLMWarning, NativeError
from edgellm.ops.native import MAX_THREADS

SYS, PROC = Path("/sys"), Path("/proc")

_processors: set[int] = set()  # while real time has the loading thread on one of them, which all that it starts inherits; empty otherwise


def set_processors(affinity: Collection[int]) -> None:
    """`processors` are these from now on; if there are none of these, what the system says, as at first."""
    _processors.clear()
    _processors.update(affinity)


@contextmanager
def everywhere() -> Iterator[None]:
    """Let the calling thread, and so the threads that it starts, run on all `processors` within, though real time binds it to one."""
    if not _processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processors() -> list[int]:
    """The processors that the calling thread may run on, in order; in real time, that it might run on before. NativeError: its affinity
    leaves it none.
    """
    if _processors:
        return sorted(_processors)
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0))
    if not allowed:
        raise NativeError("the CPU affinity of this process excludes every processor; allow it one, e.g. with `taskset -c 0 COMMAND`")
    return allowed


def physical_cores() -> list[int]:
    """Of each core that the calling thread may run on, its first processor: a core's hardware threads share what matmul needs most."""
    first_of: dict[str, int] = {}
    for processor in processors():
        siblings = SYS / f"devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        first_of.setdefault(_read(siblings) or f"unknown {processor}", processor)
    return list(first_of.values())


def cpu_quota() -> float:
    """How many processors' time the control groups of this process (versions 1 and 2) let it use; infinite: all that there is."""
    return min(_quotas(), default=math.inf)


def default_threads() -> int:
    """One for each physical core that the process may run on, but no more than its quota pays for: beyond it every thread is halted
    until the period is over.
    """
    return max(1, min(len(physical_cores()), MAX_THREADS, math.floor(min(cpu_quota(), MAX_THREADS))))


def warn_of_too_many(threads: int) -> None:
    """EdgeLLMWarning if there are more threads than processors for them."""
    available = min(len(processors()), math.ceil(min(cpu_quota(), MAX_THREADS)))
    if threads > available:
        count = "1 processor" if available == 1 else f"{available} processors"
        warnings.warn(
            f"{threads} threads were asked for, and this process may use {count}: the threads take turns, which is slower than {available}",
            EdgeLLMWarning,
            stacklevel=3,
        )


def _quotas() -> Iterator[float]:
    """The limits of the process's control group and of those around it. In a container their root may be its own group, whatever the
    path says; so levels that do not exist are passed over.
    """
    for line in (_read(PROC / "self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path.lstrip("/"))
        for level in (group, *group.parents):
            if not controllers:
                quota, _, period = (_read(SYS / "fs/cgroup" / level / "cpu.max") or "max").partition(" ")
            elif "cpu" in controllers.split(","):
                folder = SYS / "fs/cgroup/cpu" / level
                quota, period = _read(folder / "cpu.cfs_quota_us") or "-1", _read(folder / "cpu.cfs_period_us") or "-1"
            else:
                continue
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _unbind() -> None:
    """In a forked child, which inherits the core but no engine that needs it."""
    if _processors:
        with suppress(OSError):  # processors may have been taken from the process since
            os.sched_setaffinity(0, _processors)
        set_processors(())


os.register_at_fork(after_in_child=_unbind)
