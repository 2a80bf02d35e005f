"""Real-time execution: what is asked of the operating system so that nothing comes between a token and its deadline, and how it is undone.

- Memory: the engine's buffers are touched, then the whole process is locked in memory, what it maps later included. Where a limit
  forbids that, the buffers alone are.
- Cores: each thread is bound to a physical core of its own, the last ones that the process may use: the system's own work tends to the
  first. Threads and programs that the loading thread starts meanwhile inherit its core (`taskset -c LIST COMMAND` gives a program
  others); other engines and forked children do not.
- Scheduling: SCHED_FIFO at a priority above all ordinary processes and below the kernel's own threads. It does not pass on to children.
- Garbage: Python's collector leaves out what exists when the engine is loaded. It stays switched on, because the caller's code may need
  it; a collection that looks only at what came since takes some ten microseconds.

What the system refuses is a warning that says how to allow it, and the rest is done. All of it concerns the whole process and the thread
that loads the engine, which has to be the one that runs it. A forked child is not in real time, and undoes nothing that is its parent's.
"""

from __future__ import annotations

import gc
import os
import resource
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edgellm.errors import EdgeLLMWarning, InvalidRequestError
from edgellm.ops import native
from edgellm.runtime.cores import physical_cores, processors, set_processors
from edgellm.runtime.workspace import Arena

PRIORITY = 10
_CAP_IPC_LOCK = 14  # of linux/capability.h
_in_force = threading.Lock()
_undoing: weakref.WeakSet[ExitStack] = weakref.WeakSet()  # what is in force
_locked: weakref.WeakSet[Arena] = weakref.WeakSet()  # one by one, by `lock`


@contextmanager
def real_time(threads: Sequence[int], arenas: Sequence[Arena]) -> Iterator[None]:
    """In force within. threads: the system's ids of those that compute, the caller's first. InvalidRequestError: it is in force already."""
    if not _in_force.acquire(blocking=False):
        raise InvalidRequestError("another engine of this process runs in real time; close it first, as there can be one")
    with ExitStack() as undo:
        _undoing.add(undo)
        undo.callback(_in_force.release)
        _lock_everything(arenas, undo)
        _bind(threads, undo)
        _schedule(threads, undo)
        _freeze_garbage(undo)
        yield


@contextmanager
def bound(threads: Sequence[int]) -> Iterator[None]:
    """Each thread on a core of its own within, the first, the caller's, as before afterwards. EdgeLLMWarning: they are bound to none."""
    with ExitStack() as undo:
        _undoing.add(undo)
        _bind(threads, undo)
        yield


def lock(arenas: Sequence[Arena]) -> None:
    """Keep these buffers in memory; where the system refuses, they are at least touched, and there is a warning."""
    for arena in arenas:
        arena.touch()
    try:
        for arena in arenas:
            arena.lock()
    except OSError as error:
        wanted, limit = sum(arena.nbytes for arena in arenas) / 2**20, resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        known, ways = "there is no limit", ""
        if limit != resource.RLIM_INFINITY:
            known, ways = f"the limit is {limit / 2**20:.1f} MiB", "`ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit, or "
        _warn(
            f"{wanted:.1f} MiB can't be locked in memory ({error.strerror}; {known}), so the system may take pages away. "
            f"To allow it: {ways}the capability CAP_IPC_LOCK"
        )
    else:
        _locked.update(arenas)


def _lock_everything(arenas: Sequence[Arena], undo: ExitStack) -> None:
    """Only where there is no limit: otherwise whatever is mapped later could be refused, in the middle of anything."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY and not _is_capable(_CAP_IPC_LOCK):
        lock(arenas)
        return
    for arena in arenas:
        arena.touch()
    try:
        native.lock_all()
    except OSError:
        lock(arenas)
    else:
        undo.callback(_unlock_everything)


def _unlock_everything() -> None:
    """All but the arenas of other engines, which the system unlocks with the rest."""
    native.unlock_all()
    lock(tuple(_locked))


def _bind(threads: Sequence[int], undo: ExitStack) -> None:
    if not hasattr(os, "sched_setaffinity"):
        _warn("this system binds no threads to cores, so it may move them")
        return
    cores = physical_cores()
    if len(threads) > len(cores):
        cores = processors()
    if len(threads) > len(cores):
        _warn(f"{len(threads)} threads can't have a core each of the {len(cores)} that this process may use, so they are bound to none")
        return
    before = os.sched_getaffinity(threads[0])
    undo.callback(_unless_gone, os.sched_setaffinity, threads[0], before)
    undo.callback(set_processors, ())
    set_processors(before)
    try:
        for thread, core in zip(threads, cores[-len(threads) :], strict=True):
            os.sched_setaffinity(thread, {core})
    except OSError as error:
        _warn(f"threads can't be bound to the cores {cores} ({error.strerror}), so the system may move them")


def _schedule(threads: Sequence[int], undo: ExitStack) -> None:
    if not hasattr(os, "sched_setscheduler"):
        _warn("this system has no class SCHED_FIFO, so other processes may interrupt a token")
        return
    try:
        for thread in threads:
            before = os.sched_getscheduler(thread), os.sched_getparam(thread)
            os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
            undo.callback(_unless_gone, _restore_scheduling, thread, *before)
    except OSError as error:  # not permitted, or unknown to a sandbox or a C library
        _warn(
            f"the scheduling class SCHED_FIFO is refused ({error.strerror}), so other processes may interrupt a token. To allow it: "
            f"`ulimit -r {PRIORITY}`, LimitRTPRIO={PRIORITY} in a systemd unit, or the capability CAP_SYS_NICE"
        )


def _restore_scheduling(thread: int, policy: int, parameters: os.sched_param) -> None:
    try:
        os.sched_setscheduler(thread, policy, parameters)
    except PermissionError:  # that its children are ordinary is what an unprivileged thread can't take back
        os.sched_setscheduler(thread, policy | os.SCHED_RESET_ON_FORK, parameters)


def _freeze_garbage(undo: ExitStack) -> None:
    gc.collect()
    if gc.get_freeze_count() == 0:  # otherwise somebody else has frozen, and unfreezing would undo that too
        undo.callback(gc.unfreeze)
    gc.freeze()


def _unless_gone(change: Callable[..., object], thread: int, *arguments: object) -> None:
    """Change a thread that may have ended since."""
    with suppress(ProcessLookupError):
        change(thread, *arguments)


def _is_capable(capability: int) -> bool:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def _warn(what: str) -> None:
    warnings.warn(what, EdgeLLMWarning, stacklevel=3)


def _forget() -> None:
    """In a forked child: what is in force is its parent's, and none of it but the frozen garbage is inherited (for cores see `cores`)."""
    if _in_force.locked():
        _in_force.release()
    for undo in _undoing:
        undo.pop_all()
    _locked.clear()


os.register_at_fork(after_in_child=_forget)
