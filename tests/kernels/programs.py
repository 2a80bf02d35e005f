"""What a test runs in a process of its own: `python -m tests.kernels.programs NAME`. Exit code 0: it went as it should."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from edgellm.errors import NativeError
from edgellm.ops import native
from tests.kernels.calls import assert_same_bits
from tests.kernels.chain import Chain

LONELY_USER = 61_616
TASKS = Path("/proc/self/task")
ISA = native.choose_isa()
REFUSED = "threads were asked for and the operating system refused to start them|could not be started again after a fork"


def in_child(work: Callable[[], None]) -> None:
    """Fork, do the work in the child, and wait for it to succeed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def assert_threads(expected: int) -> None:
    """The process comes to have that many: one that was joined may take a moment to be gone."""
    deadline = time.monotonic() + 10
    while (found := len(list(TASKS.iterdir()))) != expected:
        assert time.monotonic() < deadline, f"{found} threads, expected {expected}"
        time.sleep(0.001)


def refused(call: Callable[[], object]) -> bool:
    """Whether the call says that threads could not be started."""
    try:
        call()
    except NativeError as error:
        return any(part in str(error) for part in REFUSED.split("|"))
    return False


def allow_threads(count: int) -> None:
    """No more threads than that in this process; root, whom no limit binds, becomes a user who has no other process."""
    resource.setrlimit(resource.RLIMIT_NPROC, (count, count))
    if os.getuid() == 0:
        os.setresuid(LONELY_USER, LONELY_USER, LONELY_USER)


def fork() -> None:
    """Parent, child and grandchild all run the plan; a child that never runs it ends as well."""
    chain, pool = Chain(), native.Pool(2)
    plan = chain.record(ISA)
    expected = chain.replayed(plan, pool)

    def run() -> None:
        assert_same_bits("chain", expected, chain.replayed(plan, pool))

    def run_and_fork() -> None:
        run()
        in_child(run)
        run()

    in_child(run_and_fork)
    in_child(lambda: None)
    run()


def fork_while_running() -> None:
    """A child that was forked in the middle of another thread's run."""
    chain, other, pool = Chain(0), Chain(1), native.Pool(3)
    plan, other_plan = chain.record(ISA), other.record(ISA)
    expected = chain.replayed(plan, pool)
    done = threading.Event()

    def keep_running() -> None:
        while not done.is_set():
            other_plan.run(pool, other.step)

    with ExitStack() as stack:
        runner = threading.Thread(target=keep_running)
        runner.start()
        stack.callback(runner.join)
        stack.callback(done.set)
        for _ in range(20):
            in_child(lambda: assert_same_bits("chain", expected, chain.replayed(plan, pool)))


def fork_then_two_callers() -> None:
    """Two threads of a child come first to the pool at once: its workers are started once."""
    chains, pool = [Chain(0), Chain(1)], native.Pool(3)
    plans = [chain.record(ISA) for chain in chains]
    expected = [chain.replayed(plan, pool) for chain, plan in zip(chains, plans, strict=True)]

    def run_both() -> None:
        start, right = threading.Barrier(2), []

        def run(i: int) -> None:
            start.wait()
            assert_same_bits("chain", expected[i], chains[i].replayed(plans[i], pool))
            right.append(i)

        callers = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert sorted(right) == [0, 1]
        assert_threads(3)

    for _ in range(10):
        in_child(run_both)


def share_one_processor() -> None:
    """Three threads on one processor: a pool that may shrink comes down to one thread and now and then tries more; another never does."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    chain, pool, fixed = Chain(), native.Pool(3, may_shrink=True), native.Pool(3)
    plan = chain.record(ISA)
    expected = chain.replayed(plan, fixed)
    teams = []
    for _ in range(60):
        assert_same_bits("chain", expected, chain.replayed(plan, pool))
        teams.append(pool.team)
    assert 1 in teams, teams
    assert max(teams[teams.index(1) :]) > 1, teams
    for _ in range(10):
        chain.replayed(plan, fixed)
        assert fixed.team == 3


def no_room_for_threads() -> None:
    """A pool that can't have all its threads is refused and leaves none behind."""

    def ask_for_too_many() -> None:
        allow_threads(5)
        assert refused(lambda: native.Pool(8))
        assert_threads(1)

    in_child(ask_for_too_many)


def no_room_for_threads_after_fork() -> None:
    """The run is refused; the next one makes do with the threads that there are."""
    chain, pool = Chain(), native.Pool(8)
    plan = chain.record(ISA)
    expected = chain.replayed(plan, pool)

    def run_with_too_few() -> None:
        allow_threads(5)
        chain.begin()
        assert refused(lambda: plan.run(pool, chain.step))
        for _ in range(3):
            assert_same_bits("chain", expected, chain.replayed(plan, pool))

    in_child(run_with_too_few)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
