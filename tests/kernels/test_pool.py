"""The thread pool: any number of threads and callers, forks, and what happens when the system has no threads to give."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.ops import native
from tests.kernels import programs
from tests.kernels.calls import assert_same_bits, pool
from tests.kernels.chain import Chain

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    programs.fork,
    programs.fork_while_running,
    programs.fork_then_two_callers,
    programs.share_one_processor,
    programs.no_room_for_threads,
    programs.no_room_for_threads_after_fork,
)
needs_tasks = pytest.mark.skipif(not programs.TASKS.exists(), reason="threads are counted in /proc")


def best() -> str:
    return native.isas_available()[-1]


@pytest.mark.parametrize("program", [program.__name__ for program in PROGRAMS])
def test_in_a_process_of_its_own(program: str) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.kernels.programs", program]
    done = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_more_threads_than_cores_or_work() -> None:
    chain = Chain()
    plan = chain.record(best())
    assert_same_bits("chain", chain.replayed(plan, pool(1)), chain.replayed(plan, native.Pool(24)))


@needs_tasks
def test_pools_that_are_dropped_leave_no_thread() -> None:
    gc.collect()
    before = len(list(programs.TASKS.iterdir()))
    chain = Chain()
    plan = chain.record(best())
    for threads in [1, 2, 3, 4] * 8:
        pools = [native.Pool(threads), native.Pool(threads)]
        plan.run(pools[0], chain.step)
        pools.clear()
    gc.collect()
    programs.assert_threads(before)


def test_callers_at_once_take_turns() -> None:
    """Each with a plan of its own on one pool."""
    shared = native.Pool(2)
    chains = [Chain(seed) for seed in range(4)]
    plans = [chain.record(best()) for chain in chains]
    expected = [chain.replayed(plan, pool(1)) for chain, plan in zip(chains, plans, strict=True)]
    failures: list[BaseException] = []

    def run(i: int) -> None:
        try:
            for _ in range(20):
                assert_same_bits("chain", expected[i], chains[i].replayed(plans[i], shared))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that can fail
            failures.append(error)

    callers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert failures == []


@pytest.mark.parametrize("threads", [-1, 0, 257, 10**9])
def test_an_impossible_number_of_threads_is_refused(threads: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"threads must be between 1 and 256, not {threads}"):
        native.Pool(threads)
