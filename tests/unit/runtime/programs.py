"""What a test of the engine runs in a process of its own: `python -m tests.unit.runtime.programs NAME MODEL`."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm import Engine
from edgellm.errors import InvalidRequestError
from edgellm.runtime.cores import default_threads, physical_cores, processors

SKIPPED = 77
"""Exit code: the system does not let this process try; why is on standard output."""

PROMPT = [i * 7 % 271 for i in range(500)]


def interrupt(model: Path) -> None:
    """Ctrl-C among prefills: KeyboardInterrupt once the step that runs is over, and the engine goes on where it was."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who was started in the background ignores Ctrl-C, and hands that down
    engine = edgellm.load(model, threads=2, isa="scalar", prefill_chunk=16)
    expected = engine.prefill(PROMPT).copy()
    pressed_at: list[float] = []

    def press_ctrl_c() -> None:
        while not 32 <= len(engine.cached_tokens) < len(PROMPT):
            time.sleep(0)
        pressed_at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    with suppress(KeyboardInterrupt):
        while True:  # so that the signal can't come too late
            engine.reset()
            engine.prefill(PROMPT)
    took = time.monotonic() - pressed_at[0]
    presser.join()
    assert took < 10, f"{took} s to stop"
    assert engine.cached_tokens == tuple(PROMPT[: len(engine.cached_tokens)])
    np.testing.assert_array_equal(engine.prefill(PROMPT), expected)


def interrupt_decoding(model: Path) -> None:
    """Ctrl-C at many moments of generations; after each the cache holds the tokens that it says, and the engine goes on from them."""
    engine, witness = edgellm.load(model, threads=2), edgellm.load(model, threads=1)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for press in range(60):
        with suppress(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.001 + press * 0.0001)
            while True:  # so that the signal can't come too late
                for _ in engine.generate(PROMPT[press : press + 5], max_tokens=40):
                    pass
        ids = [*engine.cached_tokens, 3]
        np.testing.assert_array_equal(engine.prefill(ids), witness.logits(ids)[-1])


def fork(model: Path) -> None:
    """A loaded engine works on in a child, from the cache that its parent filled, and in the parent."""
    engine = edgellm.load(model, threads=2)
    expected = engine.logits(PROMPT[:40])[-1]
    engine.prefill(PROMPT[:20])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            np.testing.assert_array_equal(engine.prefill(PROMPT[:40]), expected)
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here
            traceback.print_exc()
        finally:
            os._exit(status)
    np.testing.assert_array_equal(engine.prefill(PROMPT[:40]), expected)
    assert os.waitpid(child, 0)[1] == 0


def claims() -> dict[str, Any]:
    """What real time changes in this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "affinity": os.sched_getaffinity(0),
        "scheduling": (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority),
        "locked_kb": int(status["VmLck"].split()[0]),
        "frozen": gc.get_freeze_count() > 0,
    }


def renounce_privileges() -> None:
    """Be an ordinary process with the limits that one usually has: no capabilities, 64 KiB to lock, no real-time priority."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0, os.strerror(ctypes.get_errno())
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))


def load_in_real_time(model: Path, threads: int) -> Engine:
    """Ends the process as skipped where the system refuses anything."""
    with warnings.catch_warnings(record=True) as refused:
        engine = edgellm.load(model, threads=threads, realtime=True)
    if refused:
        print(*(warning.message for warning in refused), sep="; ")
        sys.exit(SKIPPED)
    return engine


def real_time(model: Path) -> None:
    """Every thread on a core of its own, before ordinary processes, memory locked; all of it undone in the end."""
    threads = len(physical_cores())
    expected = edgellm.load(model, threads=1).prefill(PROMPT).copy()
    before = claims()
    with load_in_real_time(model, threads) as engine:
        ids = engine._pool.thread_ids()
        cores = [os.sched_getaffinity(thread) for thread in ids]
        assert ids[0] == threading.get_native_id()
        assert len(set.union(*cores)) == sum(map(len, cores)) == threads, cores
        assert {os.sched_getscheduler(thread) for thread in ids} == {os.SCHED_FIFO | os.SCHED_RESET_ON_FORK}
        in_force = claims()
        assert in_force.pop("locked_kb") > 0
        assert in_force == {"affinity": cores[0], "scheduling": (os.sched_getscheduler(0), 10), "frozen": True}
        np.testing.assert_array_equal(engine.prefill(PROMPT), expected)
        with pytest.raises(InvalidRequestError, match="another engine of this process runs in real time; close it first"):
            edgellm.load(model, threads=1, realtime=True)
    assert claims() == before
    abandoned = edgellm.load(model, threads=1, realtime=True)
    assert claims() != before
    del abandoned
    gc.collect()
    assert claims() == before


def real_time_forked(model: Path) -> None:
    """A forked child is an ordinary process on all cores, with an engine that works; its end takes nothing from its parent."""
    before = claims()
    engine = load_in_real_time(model, threads=len(physical_cores()))
    in_force, expected = claims(), engine.prefill(PROMPT).copy()
    child = os.fork()
    if child == 0:
        ordinary = before | {"frozen": True}
        assert not engine.realtime
        assert claims() == ordinary
        np.testing.assert_array_equal(engine.prefill(PROMPT), expected)
        assert all(os.sched_getaffinity(thread) == before["affinity"] for thread in engine._pool.thread_ids())
        with load_in_real_time(model, threads=1):
            assert claims() != ordinary
        assert claims() == ordinary
        return
    assert os.waitpid(child, 0)[1] == 0
    assert engine.realtime
    assert claims() == in_force
    engine.close()
    assert claims() == before


def real_time_beside_others(model: Path) -> None:
    """Another engine may use all cores that the process had, and keeps its memory locked."""
    locked = edgellm.load(model, threads=1, lock_memory=True)
    threads, before = default_threads(), claims()
    with load_in_real_time(model, threads=1):
        assert processors() == sorted(before["affinity"])
        with edgellm.load(model) as other:
            assert other.threads == threads
            assert all(os.sched_getaffinity(worker) == before["affinity"] for worker in other._pool.thread_ids()[1:])
        assert len(os.sched_getaffinity(0)) == 1
    assert before["locked_kb"] > 0
    assert claims() == before
    locked.close()


def real_time_refused(model: Path) -> None:
    """One warning for each thing that the system refuses, saying how to allow it; the rest is done, and the engine works."""
    renounce_privileges()
    expected = edgellm.load(model, threads=1).prefill(PROMPT).copy()
    before = claims()
    with warnings.catch_warnings(record=True) as refused, edgellm.load(model, threads=1, realtime=True) as engine:
        memory, scheduling = (str(warning.message) for warning in refused)
        assert "MiB can't be locked in memory (Cannot allocate memory; the limit is 0.1 MiB)" in memory
        assert "To allow it: `ulimit -l unlimited`, LimitMEMLOCK=infinity" in memory
        assert "SCHED_FIFO is refused (Operation not permitted), so other processes may interrupt a token" in scheduling
        assert "To allow it: `ulimit -r 10`, LimitRTPRIO=10" in scheduling
        assert len(os.sched_getaffinity(0)) == 1
        assert gc.get_freeze_count() > 0
        np.testing.assert_array_equal(engine.prefill(PROMPT), expected)
    assert claims() == before
    with warnings.catch_warnings(record=True) as refused:
        edgellm.load(model, threads=1, lock_memory=True)
    assert [str(warning.message) for warning in refused] == [memory]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    with warnings.catch_warnings(record=True) as refused:
        edgellm.load(model, threads=1, lock_memory=True)
    assert ["can't be locked in memory (Operation not permitted; the limit is 0.0 MiB)" in str(w.message) for w in refused] == [True]


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
